# Declare results finished: makes links to them, such as merge/finished/sam3.pt -> ../sam3.pt.
set -eu
for link in "$@"; do
    path=${link##*finished/}
    up=$(printf '%s\n' "$path" | sed 's|[^/][^/]*|..|g')
    ln -sf "$up/$path" "$link"
done
