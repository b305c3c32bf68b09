"""Loaded by vLLM, as its plugin, in each of its processes: what the CPU build of 0.32.0 cannot do
without it. It imports nothing of freehold: its environment has none.

A request with a seed has a random generator of its own. Where its prompt is read in several steps,
vLLM draws a token after each and throws all but the last away, and takes the generator back by
setting its offset. A generator on a CPU has none ("CPU Generator does not use offset"), and the
whole engine dies. Here its state is kept before such a draw, and restored after it.
"""

from typing import Any


class _TakenBack:
    """Stands for a generator whose state has been restored already."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, _: int) -> None:
        """There is nothing left to do."""


def _thrown_away(runner: Any) -> dict[int, Any]:
    """The generators of the requests whose token will not count."""
    count = runner.input_batch.num_reqs
    rows = runner.discard_request_mask.np[:count].nonzero()[0]
    generators = runner.input_batch.generators
    return {int(row): generators[int(row)] for row in rows if int(row) in generators}


def register() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # noqa: PLC0415 - by vLLM alone

    if getattr(GPUModelRunner, "_freehold_takes_back", False):
        return
    sample, settle = GPUModelRunner._sample, GPUModelRunner._bookkeeping_sync

    def sampled(self: Any, *arguments: Any, **named: Any) -> Any:
        kept = [(each, each.get_state()) for each in _thrown_away(self).values()]
        drawn = sample(self, *arguments, **named)
        for generator, state in kept:
            generator.set_state(state)
        return drawn

    def settled(self: Any, *arguments: Any, **named: Any) -> Any:
        generators = self.input_batch.generators
        thrown = _thrown_away(self)
        generators.update(dict.fromkeys(thrown, _TakenBack()))
        try:
            return settle(self, *arguments, **named)
        finally:
            generators.update(thrown)

    GPUModelRunner._sample = sampled
    GPUModelRunner._bookkeeping_sync = settled
    GPUModelRunner._freehold_takes_back = True
