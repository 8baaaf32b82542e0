"""One PPO iteration up to the advantages: prompts in, `Experience` out.

Each process samples and scores its share of the prompts; then everything is gathered, so whitening and mini-batches
are those of the whole iteration and do not depend on the number of processes.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rleif import losses
from rleif.config import RLEIFConfig
from rleif.policy_value import PolicyAndValue, response_logprobs
from rleif.ppo_batch import (
    Experience,
    Rollouts,
    cut_rows,
    length_order,
    pack_rollouts,
    prompt_indices,
    sampling_keys,
)
from rleif.prompt_set import PromptSet
from rleif.records import Generate, Sampling, stable_hash
from rleif.rewards import Combine, NonFiniteError, RewardParts, place_steps, place_terminal, token_rewards
from rleif.scoring import Sample, Scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What an iteration starts its updates with."""

    experience: Experience
    metrics: Mapping[str, float]  # over all processes, times in seconds of this one
    rows: tuple[dict[str, Any], ...]  # this process's first samples, for the completions table


class ExperienceMaker:
    """Samples, scores and evaluates; holds no state that a resumed run would miss.

    ref_model: None takes the policy with its adapter switched off.
    """

    def __init__(
        self,
        *,
        model: PolicyAndValue,
        ref_model: nn.Module | None,
        engine: Generate,
        scorer: Scorer,
        combine: Combine,
        prompts: PromptSet,
        config: RLEIFConfig,
        accelerator: Any,
    ) -> None:
        self.model = model
        self.ref_model = ref_model
        self.engine = engine
        self.scorer = scorer
        self.combine = combine
        self.prompts = prompts
        self.config = config
        self.accelerator = accelerator
        self._nonfinite_in_a_row = 0

    def score_instructions(self, iterations: int) -> None:
        """r_q of every instruction this process will meet in the run, once, before the loop.

        All of them from iteration 0 on, also in a resumed run: the last bits of a score depend on the batch it was
        computed in, and the batches must be the same.
        """
        mine = (index for iteration in range(iterations) for index in self._my_prompts(iteration))
        self.scorer.irm.ensure(self.prompts.instructions[index] for index in mine)

    def make(self, iteration: int, step: int) -> Iteration:
        """step: optimizer steps done so far, for the completions table."""
        times = _StopWatch()
        samples = self._sample(iteration)
        times.mark("time/generate")
        parts = self.scorer(samples)
        scores = self.scores(parts)
        self._report_nonfinite(samples, scores, iteration)
        times.mark("time/score")
        completions, prompts = [s.completion for s in samples], [s.prompt for s in samples]
        rollouts = pack_rollouts(completions, prompts, self._pad_id, self.accelerator.device)
        forward = self._forward(rollouts)
        rollouts, parts = self._gather_record(rollouts), self._gather_record(parts)
        scores, forward = self._gather(scores), {name: self._gather(t) for name, t in forward.items()}
        times.mark("time/logprobs")
        self._count_nonfinite(scores, iteration)
        judged = parts  # the metrics tell of the samples as they were judged, shuffled or not
        if self.config.shuffle_rewards:
            scores, parts = _shuffled(scores, parts, stable_hash(self.config.seed, "shuffle", iteration))
        experience, metrics = self._finish(rollouts, forward, self._place(rollouts, scores, parts), scores)
        metrics |= _sample_metrics(rollouts, judged, scores) | times.seconds
        return Iteration(experience=experience, metrics=metrics, rows=self._rows(samples, parts, scores, step))

    def _my_prompts(self, iteration: int) -> list[int]:
        config, count = self.config, self.accelerator.num_processes
        chosen = prompt_indices(config.seed, iteration, len(self.prompts), config.prompts_per_iteration)
        share = len(chosen) // count
        start = self.accelerator.process_index * share
        return chosen[start : start + share]

    def _sample(self, iteration: int) -> list[Sample]:
        config, chosen = self.config, self._my_prompts(iteration)
        sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_completion_length or 0,
            num_generations=config.num_generations,
        )
        keys = sampling_keys(config.seed, iteration, chosen)
        groups = self.engine([self.prompts.ids[index] for index in chosen], sampling, keys)
        return [self._judged(index, c) for index, group in zip(chosen, groups, strict=True) for c in group]

    def _judged(self, index: int, completion: Any) -> Sample:
        instruction, answer = self.prompts.instructions[index], self.prompts.answers[index]
        return Sample(prompt=index, instruction=instruction, answer=answer, completion=completion)

    def scores(self, parts: RewardParts) -> Tensor:
        """The combined score of each sample, less the penalty for not finishing."""
        scores = self.combine(parts).to(torch.float32)
        if scores.shape != parts.irm.shape:
            raise ValueError(
                f"combine returned shape {tuple(scores.shape)}; expected one score per sample {parts.irm.shape}"
            )
        penalty = self.config.missing_eos_penalty or 0.0
        return torch.where(parts.is_finished, scores, scores - penalty)

    def _forward(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Log-probs, entropy, values and reference log-probs under the current weights, without gradient."""
        names = ["logprobs", "entropy", "values"] + (["ref_logprobs"] if self.config.kl_coef else [])
        results = {name: torch.zeros_like(rollouts.engine_logprobs) for name in names}
        order = length_order(rollouts, torch.arange(len(rollouts.prompts), device=rollouts.prompts.device))
        temperature = self.config.temperature
        with torch.no_grad():
            for index in order.split(self.config.local_rollout_forward_batch_size):
                batch = cut_rows(rollouts, index, ("is_response",))
                places = (batch["input_ids"], batch["prompt_lengths"], batch["is_response"])
                prompts = batch["prompts"] if self.config.share_prompts else None
                found = dict(self.model(*places, temperature, prompts))
                if self.config.kl_coef:
                    with self._reference() as reference, self.accelerator.autocast():
                        found["ref_logprobs"], _ = response_logprobs(
                            reference, *places, temperature, prompts, agree_on_chunks=self.model.agree_on_chunks
                        )
                for name in names:
                    results[name][index, : found[name].shape[1]] = found[name].to(torch.float32)
        return results

    @contextlib.contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        if self.ref_model is not None:
            yield self.ref_model
        else:
            with self.model.policy.disable_adapter():  # type: ignore[operator]
                yield self.model.policy

    def _place(self, rollouts: Rollouts, scores: Tensor, parts: RewardParts) -> Tensor:
        """The scores on the response tokens; those that are not finite, which take no part, as 0."""
        lengths, width = rollouts.response_lengths, rollouts.engine_logprobs.shape[1]
        if self.config.placement == "outcome":
            return place_terminal(scores.nan_to_num(), lengths, width)
        placed = place_steps(scores, parts.irm, parts.step_shares, parts.step_ends, lengths, width)
        return torch.where(scores.isfinite()[:, None], placed, 0.0)

    def _finish(
        self, rollouts: Rollouts, forward: dict[str, Tensor], placed: Tensor, scores: Tensor
    ) -> tuple[Experience, dict[str, float]]:
        """Token rewards, advantages and returns; samples without a finite score take no part."""
        config, is_finite = self.config, scores.isfinite()
        is_response = rollouts.is_response & is_finite[:, None]
        logprobs, values, ref = forward["logprobs"], forward["values"], forward.get("ref_logprobs")
        rewards = token_rewards(placed, logprobs, ref, is_response, config.kl_coef)
        if config.whiten_rewards:
            rewards = losses.whiten(rewards, is_response, shift_mean=False)
        advantages, returns = losses.gae(rewards, values, is_response, config.gamma, config.lam)
        metrics = _token_metrics(forward, rollouts.engine_logprobs, values, returns, is_response)
        if ref is not None:
            kl = losses.masked_sum(losses.kl_k1(logprobs, ref), is_response) / is_finite.sum().clamp(min=1)
            metrics["objective/kl"] = float(kl)
        metrics["objective/non_score_reward"] = -config.kl_coef * metrics.get("objective/kl", 0.0)
        if config.whiten_advantages:
            advantages = losses.whiten(advantages, is_response)
        experience = Experience(
            input_ids=rollouts.input_ids,
            prompt_lengths=rollouts.prompt_lengths,
            response_lengths=rollouts.response_lengths,
            prompts=rollouts.prompts,
            is_response=is_response,
            old_logprobs=logprobs,
            old_values=values,
            advantages=advantages,
            returns=returns,
        )
        return experience, metrics

    def _report_nonfinite(self, samples: list[Sample], scores: Tensor, iteration: int) -> None:
        for i in (~scores.isfinite()).nonzero().flatten().tolist():
            sample = samples[i]
            logger.warning(
                "iteration %d: the reward of prompt %d (%r), completion %r, is %s; it is left out of the update",
                iteration, sample.prompt, sample.instruction[:100], sample.completion.text[:100], float(scores[i]),
            )  # fmt: skip

    def _count_nonfinite(self, scores: Tensor, iteration: int) -> None:
        count = int((~scores.isfinite()).sum())
        self._nonfinite_in_a_row = self._nonfinite_in_a_row + 1 if count else 0
        if self._nonfinite_in_a_row > self.config.max_nonfinite:
            raise NonFiniteError(
                f"iteration {iteration}: {count} of {len(scores)} rewards are NaN or infinite, for the "
                f"{self._nonfinite_in_a_row}th iteration in a row (max_nonfinite {self.config.max_nonfinite}). The "
                "warnings above name the samples; the weights are those of the last good update."
            )

    def _rows(self, samples: list[Sample], parts: RewardParts, scores: Tensor, step: int) -> tuple[dict[str, Any], ...]:
        # The first process's samples stand first in what was gathered, and it alone writes the table.
        count = min(self.config.num_logged_completions, len(samples))
        return tuple(
            {
                "step": step,
                "prompt": self.prompts.texts[samples[i].prompt],
                "completion": samples[i].completion.text,
                "irm": _number(parts.irm[i]),
                "prm": _number(parts.prm[i]),
                "reward": _number(scores[i]),
                "accuracy": _number(parts.is_correct[i]),
            }
            for i in range(count)
        )

    @property
    def _pad_id(self) -> int:
        return getattr(self.engine, "pad_id", 0)  # never read: behind a causal model's last token

    def _gather_record(self, record: Any) -> Any:
        fields = {f.name: self._gather(getattr(record, f.name)) for f in dataclasses.fields(record)}
        return type(record)(**fields)

    def _gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes in their order, on the training device, padded to one width."""
        tensor = tensor.to(self.accelerator.device)
        if self.accelerator.num_processes == 1:
            return tensor
        if tensor.ndim > 1:
            tensor = self.accelerator.pad_across_processes(tensor, dim=1)
        return self.accelerator.gather(tensor)


def _token_metrics(
    forward: dict[str, Tensor], engine_logprobs: Tensor, values: Tensor, returns: Tensor, is_response: Tensor
) -> dict[str, float]:
    """Means over the response tokens of the iteration."""
    mismatch = torch.where(is_response, (engine_logprobs - forward["logprobs"]).abs(), 0.0)
    return {
        "objective/entropy": float(losses.masked_mean(forward["entropy"], is_response)),
        "val/explained_variance": float(losses.explained_variance(values, returns, is_response)),
        "val/mean": float(losses.masked_mean(values, is_response)),
        "val/return_mean": float(losses.masked_mean(returns, is_response)),
        "rollout/logprob_difference_mean": float(losses.masked_mean(mismatch, is_response)),
        "rollout/logprob_difference_max": float(mismatch.max()),
    }


def _sample_metrics(rollouts: Rollouts, parts: RewardParts, scores: Tensor) -> dict[str, float]:
    """Means over the samples of the iteration that have a finite value."""
    metrics = {
        "objective/scores": _finite_mean(scores),
        "objective/irm": _finite_mean(parts.irm),
        "objective/prm": _finite_mean(parts.prm),
        "objective/scores_std": float(scores[scores.isfinite()].std(correction=0)) if scores.isfinite().any() else 0.0,
        "objective/nonfinite": float((~scores.isfinite()).sum()),
        "completions/mean_length": float(rollouts.response_lengths.float().mean()),
        "completions/eos_rate": float(parts.is_finished.float().mean()),
    }
    if not parts.is_correct.isnan().all():
        metrics["objective/accuracy"] = _finite_mean(parts.is_correct)
    return metrics


def _finite_mean(values: Tensor) -> float:
    kept = values[values.isfinite()]
    return float(kept.mean()) if len(kept) else math.nan


def _number(value: Tensor) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if value.isfinite() else None


def _shuffled(scores: Tensor, parts: RewardParts, seed: int) -> tuple[Tensor, RewardParts]:
    """The finite scores, with all that goes with them, in another order; the others stay with their samples."""
    places = scores.isfinite().nonzero().flatten()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).to(scores.device)
    source = torch.arange(len(scores), device=scores.device)
    source[places] = places[order]
    return scores[source], dataclasses.replace(parts, irm=parts.irm[source], step_shares=parts.step_shares[source])


class _StopWatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
