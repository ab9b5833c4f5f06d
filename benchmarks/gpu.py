"""What only a GPU shows, in ten minutes: exactness, gradients, memory, speed, stops.

`python -m benchmarks.gpu` runs full SAM 3 with random weights and a preset's LoRA on this
machine's GPU. Every item prints its rows as soon as it is finished; one that fails prints why,
and the others still run. `--model tiny` runs the same items on the tiny model, on a CPU too, where
an item that needs a GPU is skipped. `--items memory,steps` runs only these.
"""

import argparse
import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch._C._autograd import DeviceType

from benchmarks.batches import OBJECTS, noise_batch, random_updates
from benchmarks.gpu_commands import full_run, stages, stop_and_resume
from benchmarks.gpu_prediction import prediction
from benchmarks.memory import ROOT, preset_settings
from benchmarks.training import measured_cases
from segtune.core.config import CHECKPOINTED, TrainSettings
from segtune.core.processes import Processes, local_device
from segtune.dataset.batch import Batch
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.targets import component_of, lora_specs
from segtune.model.architecture import ARCHITECTURES, build_model
from segtune.model.checkpointing import set_checkpointing
from segtune.model.forward import encode_prompts, grounding_outputs
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.precision import autocast_dtype, mixed_precision
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.training.ema import adapter_values, load_adapter_values, update_ema
from segtune.training.engine import StepReport, accumulate, train_one_epoch
from segtune.training.failures import StepFailed
from segtune.training.losses import build_loss
from segtune.training.optimizer import build_optimizer

Rows = Iterator[tuple[str, str]]  # (what was measured, figure)

LADDER = ((10, 20), (10, 50), (10, 100), (6, 200), (20, 20), (30, 20))  # prompts, objects
STEPS = ((10, 1), (10, 4), (10, 8), (7, 4))  # prompts per image, images per micro-batch
WARM_UP, TIMED = 3, 10  # optimizer steps
REPEATS = 3  # timed steps of each way to train
CPU = torch.device("cpu")


@dataclass
class Bench:
    """The model under test; built when an item first needs it."""

    architecture: str
    settings: TrainSettings
    device: torch.device = field(default_factory=local_device)

    @cached_property
    def model(self) -> Sam3Image:
        """On the device, with LoRA as in the preset, every update different from zero."""
        model = build_model(self.architecture)
        inject_lora(model, lora_specs(self.settings.lora))
        random_updates(model)
        store_frozen_in(model, autocast_dtype(self.device))
        return model.to(self.device).train()

    @property
    def processes(self) -> Processes:
        return Processes(rank=0, count=1, device=self.device)

    def batch(self, *, prompts: int, objects: int = OBJECTS, images: int = 1) -> Batch:
        """Noise with rectangles, spread over the first few prompts of each image."""
        side = ARCHITECTURES[self.architecture].image_size
        return noise_batch(side, prompts=prompts, objects=objects, images=images)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the items and print their rows."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="full")
    parser.add_argument("--preset", type=Path, default=ROOT / "presets/2x24gb.yaml")
    parser.add_argument("--items", default=",".join(ITEMS), help="separated by commas")
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.model, preset_settings(arguments.preset))
    print(f"| {arguments.model} on {bench.device} | |\n|---|---|", flush=True)
    for name in arguments.items.split(","):
        began = time.perf_counter()
        for title, figure in shown(ITEMS[name], bench):
            print(f"| {name}: {title} | {figure} |", flush=True)
        print(f"| {name}: seconds | {time.perf_counter() - began:.0f} |", flush=True)


def shown(item: Callable[[Bench], Rows], bench: Bench) -> Rows:
    """An item's rows; its failure is a row, too."""
    try:
        yield from item(bench)
    except Exception as error:  # whatever an item shows, the others are to run
        where = traceback.extract_tb(error.__traceback__)[-1]
        yield "FAILED", f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    finally:
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def environment(bench: Bench) -> Rows:
    """Versions, and the attention that torch prefers for the shapes of each part."""
    yield "torch", torch.__version__
    if bench.device.type != "cuda":
        yield "skipped", "no GPU"
        return
    card = torch.cuda.get_device_properties(bench.device)
    yield (
        "GPU",
        f"{card.name}, {card.total_memory / 1e9:.1f} GB, capability {card.major}.{card.minor}",
    )
    yield "CUDA and cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"
    shapes = {"ViT, global": (1, 16, 5184, 64), "ViT, window": (9, 16, 576, 64)}
    shapes |= {"text": (10, 16, 32, 64), "decoder": (10, 8, 200, 32)}
    backends = torch.nn.attention.SDPBackend.__members__
    for title, shape in shapes.items():
        q = torch.zeros(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
        mask = torch.zeros(32, 32, device=bench.device, dtype=q.dtype) if title == "text" else None
        chosen = torch._fused_sdp_choice(q, q, q, attn_mask=mask)
        names = [name for name, member in backends.items() if int(member.value) == chosen]
        yield f"attention of {title}", " ".join(names)


def exactness(bench: Bench) -> Rows:
    """The tiny model's outputs and gradients, against the CPU in float32."""
    tiny = replace(bench, architecture="tiny")
    expected, reference = _outputs_and_gradients(tiny, CPU, autocast=False)
    for title, autocast in {"float32": False, "mixed precision": True}.items():
        outputs, gradients = _outputs_and_gradients(tiny, bench.device, autocast=autocast)
        for name, value in expected.items():
            yield f"{title}, {name}", f"{relative_difference(outputs[name], value):.1e} relative"
        for component, cosine in cosines(gradients, reference).items():
            yield f"{title}, gradient of {component}", f"cosine {cosine:.6f}"


def _outputs_and_gradients(
    bench: Bench, device: torch.device, *, autocast: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = load_base_model("tiny", "default")
    inject_lora(model, lora_specs(bench.settings.lora))
    random_updates(model)
    model.to(device)
    batch = bench.batch(prompts=6).to(device)
    context = mixed_precision(device) if autocast else torch.autocast(device.type, enabled=False)
    # cuDNN's convolutions round to TF32 by default.
    with context, torch.backends.cudnn.flags(allow_tf32=autocast):
        outputs = grounding_outputs(model.eval(), batch)
    names = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")
    # Of smooth functions of the outputs: a matching may turn over on the last bit.
    sum(outputs[name].float().square().mean() for name in names).backward()
    gradients = {
        n: p.grad.float().cpu() for n, p in lora_parameters(model).items() if p.grad is not None
    }
    return {name: outputs[name].detach().float().cpu() for name in names}, gradients


def gradients(bench: Bench) -> Rows:
    """Parts that broke on a GPU before, then a whole step: every adapter has a gradient."""
    texts = [f"thing {number}" for number in range(10)]
    with mixed_precision(bench.device):
        features = encode_prompts(bench.model, texts, bench.device)
    features["language_features"].float().square().mean().backward()
    yield "backward pass of the text encoder", "done"
    for title, objects in {"with objects": OBJECTS, "negatives only": 0}.items():
        _accumulate(bench, bench.batch(prompts=10, objects=objects))
        found = [p.grad for p in lora_parameters(bench.model).values()]
        present = [gradient for gradient in found if gradient is not None]
        finite = sum(bool(gradient.isfinite().all()) for gradient in present)
        nonzero = sum(bool(gradient.any()) for gradient in present)
        yield title, f"{finite} finite and {nonzero} nonzero of {len(found)} gradients"
    parameters = lora_parameters(bench.model)
    average = {name: p.detach().clone() for name, p in parameters.items()}
    update_ema(average, parameters, decay=0.9, step=1)
    yield "moving average of the adapters", "done"


def memory(bench: Bench) -> Rows:
    """Peak memory of one image: forward pass, loss and backward pass."""
    if bench.device.type != "cuda":
        yield "skipped", "no GPU"
        return
    _ = bench.model
    yield "weights and adapters", f"{torch.cuda.memory_allocated() / 1e9:.2f} GB"
    for prompts, objects in LADDER:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            _accumulate(bench, bench.batch(prompts=prompts, objects=objects))
        except torch.OutOfMemoryError:
            yield f"{prompts} prompts, {objects} objects", "out of memory"
            continue
        allocated = torch.cuda.max_memory_allocated() / 1e9
        reserved = torch.cuda.max_memory_reserved() / 1e9
        yield (
            f"{prompts} prompts, {objects} objects",
            f"{allocated:.1f} GB ({reserved:.1f} reserved)",
        )


def steps(bench: Bench) -> Rows:
    """Seconds per optimizer step, with activation checkpointing of everything and of nothing."""
    for (prompts, images), checkpointed in itertools.product(STEPS, (CHECKPOINTED, ())):
        way = "checkpointed" if checkpointed else "activations kept"
        title = f"{prompts} prompts, micro-batch of {images}, {way}"
        set_checkpointing(bench.model, checkpointed)
        batch = bench.batch(prompts=prompts, images=images)
        try:
            reports = train(bench, [[batch]] * (WARM_UP + TIMED))[WARM_UP:]
        except StepFailed as failed:
            yield title, failed.error.problem
            continue
        seconds = sorted(report.seconds for report in reports)
        middle = seconds[len(seconds) // 2]
        yield (
            title,
            f"{middle:.3f} s ({seconds[0]:.3f} to {seconds[-1]:.3f}), {images / middle:.2f} "
            f"images/s, peak {reports[-1].peak_memory_gb:.1f} GB",
        )
    set_checkpointing(bench.model, CHECKPOINTED)


def checkpointing(bench: Bench) -> Rows:
    """A step without the checkpoints of one component, and of one more each time."""
    for images, count in itertools.product((1, 4), range(len(CHECKPOINTED), -1, -1)):
        batch = bench.batch(prompts=10, images=images)
        chosen = CHECKPOINTED[:count]
        set_checkpointing(bench.model, chosen)
        reports = train(bench, [[batch]] * (WARM_UP + TIMED))[WARM_UP:]
        middle = median(report.seconds for report in reports)
        yield (
            f"images {images}, {', '.join(chosen) or 'nothing'}",
            f"{middle:.3f} s, peak {reports[-1].peak_memory_gb:.1f} GB",
        )
    set_checkpointing(bench.model, CHECKPOINTED)


def beside_the_plain_way(bench: Bench) -> Rows:
    """The table of benchmarks/training.py, in seconds of this device."""
    for one in measured_cases(bench.architecture, bench.device, repeats=REPEATS):
        yield (
            f"LoRA in {one.case.title}, {one.case.way}",
            f"{1 / median(one.seconds):.2f} images/s, peak {one.peak_bytes / 1e9:.1f} GB",
        )


def profile(bench: Bench) -> Rows:
    """Where an optimizer step spends its time on the GPU."""
    if bench.device.type != "cuda":
        yield "skipped", "no GPU"
        return
    batch = bench.batch(prompts=10)
    train(bench, [[batch]] * WARM_UP)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        (report,) = train(bench, [[batch]])
    averages = profiler.key_averages()
    on_cpu = {e.key for e in averages if e.device_type == DeviceType.CPU}
    # Annotated ranges appear on both devices, and span kernels that are counted already.
    kernels = [e for e in averages if e.device_type == DeviceType.CUDA and e.key not in on_cpu]
    busy = sum(e.self_device_time_total for e in kernels) / 1e6
    calls = {e.key: e.count for e in averages}
    yield (
        "one step under the profiler",
        f"{report.seconds:.3f} s, of which kernels run {busy:.3f} s",
    )
    launches = sum(count for key, count in calls.items() if key.startswith("cudaLaunchKernel"))
    yield "kernel launches", f"{launches}, conversions {calls.get('aten::_to_copy', 0)}"
    yield (
        "synchronizations",
        ", ".join(f"{key} {count}" for key, count in sorted(calls.items()) if "Synchronize" in key),
    )
    longest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:10]
    for number, event in enumerate(longest, start=1):
        share = event.self_device_time_total / 1e6 / busy
        yield f"kernel {number}", f"{share:.1%} in {event.count} calls: {event.key[:90]}"


def repeatability(bench: Bench) -> Rows:
    """The same four optimizer steps twice, and with their state saved and loaded halfway."""
    batches = [[bench.batch(prompts=count)] for count in (10, 7, 5, 3)]
    start = adapter_values(bench.model)
    results = []
    for pause in (None, None, 2):
        load_adapter_values(bench.model, start)
        optimizer = build_optimizer(bench.model, bench.settings)
        for halves in [batches] if pause is None else [batches[:pause], batches[pause:]]:
            saved = optimizer.state_dict()
            optimizer = build_optimizer(bench.model, bench.settings)
            optimizer.load_state_dict(saved)
            train(bench, halves, optimizer)
        results.append(adapter_values(bench.model))
    load_adapter_values(bench.model, start)
    for title, other in {"again": results[1], "with a pause": results[2]}.items():
        largest = max(float((results[0][n] - other[n]).abs().max()) for n in start)
        yield f"four steps {title}: largest difference of an adapter", f"{largest:.2e}"


def train(
    bench: Bench, batches: Sequence[Sequence[Batch]], optimizer: torch.optim.Optimizer | None = None
) -> list[StepReport]:
    """Take one optimizer step per item of `batches`, as training does."""
    reports: list[StepReport] = []
    torch.manual_seed(0)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train_one_epoch(
        bench.model,
        build_loss(bench.model.matcher, with_masks=True),
        optimizer or build_optimizer(bench.model, bench.settings),
        steps=batches,
        processes=bench.processes,
        clip_norm=bench.settings.clip_norm,
        stop_wanted=lambda: False,
        after_step=reports.append,
    )
    bench.model.zero_grad()
    return reports


def _accumulate(bench: Bench, batch: Batch) -> None:
    bench.model.zero_grad()
    accumulate(
        bench.model.train(),
        build_loss(bench.model.matcher, with_masks=True),
        batch,
        device=bench.device,
        step_boxes=float(batch.num_boxes.sum()),
        step_prompts=float(len(batch.num_boxes)),
    )


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def cosines(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Per adapted component, the cosine between two gradients."""
    result = {}
    for component, names in itertools.groupby(sorted(expected, key=component_of), component_of):
        chosen = list(names)
        a, b = (torch.cat([g[n].flatten() for n in chosen]).double() for g in (found, expected))
        result[component] = float(a @ b / (a.norm() * b.norm()))
    return result


ITEMS: dict[str, Callable[[Bench], Rows]] = {
    "environment": environment,
    "exactness": exactness,
    "gradients": gradients,
    "memory": memory,
    "steps": steps,
    "profile": profile,
    "checkpointing": checkpointing,
    "ways": beside_the_plain_way,
    "repeatability": repeatability,
    "prediction": lambda bench: prediction(bench.model, bench.architecture, bench.device),
    "stages": lambda bench: stages(),
    "full_run": lambda bench: full_run(),
    "stops": lambda bench: stop_and_resume(),
}


if __name__ == "__main__":
    main()
