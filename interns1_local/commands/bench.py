"""`interns1 bench`: how fast a model is here, through our server and as llama.cpp alone computes it."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Examples:
  interns1 bench nano
  interns1 bench interns1-mini --prompt 2048 --tokens 64 --repeats 3
"""
)
@click.argument("model")
@click.option(
    "--prompt", type=click.IntRange(min=1), default=512, show_default=True, metavar="N", help="Prompt tokens."
)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True, metavar="N", help="New tokens.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, metavar="N")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads (default: one for each core).")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def command(model: str, prompt: int, tokens: int, repeats: int, threads: int | None, as_json: bool) -> None:
    """Measure MODEL: tokens a second of prefill and of decode, one request at a time.

    Beside our server, which runs for this measurement only, stands llama.cpp on the same file: a loop of its decode
    calls in a process of its own, with no server, no sampling and no text. Both take turns; a figure is the mean of
    the repeats ± their standard deviation, the ratio is ours over llama.cpp's. Other programs disturb both.
    """
    from interns1_local.commands.bench_run import measure
    from interns1_local.commands.calibration import find_model
    from interns1_local.commands.format import echo_json
    from interns1_local.commands.progress import counting_bar
    from interns1_local.config import load_settings
    from interns1_local.errors import BadRequest
    from interns1_local.runners.memory import physical_cores
    from interns1_local.runners.model_spec import read_model_facts

    files = find_model(model, None)
    if str(files.model) == model:
        raise BadRequest(f"{model} is a file; a model's name is expected: 'interns1 create NAME' makes one of a file")
    facts = read_model_facts(files.model)
    chosen = threads or load_settings().threads or physical_cores()
    counts = {"prefill": prompt, "decode": tokens}
    with counting_bar("measuring", "repeats") as progress:
        speeds = measure(model, files.model, facts, counts=counts, repeats=repeats, threads=chosen, progress=progress)
    if as_json:
        figures = [speed.to_json() for speed in speeds]
        echo_json({"model": model, "file": str(files.model), "threads": chosen, "measures": figures})
        return
    click.echo(f"{model}: {facts.quantization}, {chosen} threads, {repeats} repeats; tokens a second")
    click.echo(f"{'':16}{'ours':>18}{'llama.cpp':>18}{'ratio':>8}")
    for speed in speeds:
        columns = "".join(f"{_figure(values):>18}" for values in (speed.ours, speed.llama_cpp))
        click.echo(f"{speed.kind + ' ' + str(speed.n_tokens):16}{columns}{speed.ratio:>8.2f}")


def _figure(values: list[float]) -> str:
    from statistics import fmean

    from interns1_local.commands.bench_run import deviation

    return f"{fmean(values):.1f} ± {deviation(values):.1f}"
