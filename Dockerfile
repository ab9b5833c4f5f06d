# The packages of requirements.lock. segtune itself is not in the image: a run uses the checkout in
# its working directory. docs/clusters.md says how, with Docker and with Apptainer.
FROM python:3.11-slim-bookworm
COPY requirements.lock /opt/segtune/
RUN pip install --no-cache-dir -r /opt/segtune/requirements.lock
# So that `docker run` finds the code; Snakemake's jobs find it by themselves.
ENV PYTHONPATH=/work/src
WORKDIR /work
