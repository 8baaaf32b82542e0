"""The prompt format that SFT, PPO, evaluation and the policy share."""

WIZARDMATH_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:"
)
"""*Source:* the official WizardLM repository, WizardMath README (training prompt)."""

COMPLETION_PREFIX = "\n"
"""What stands between prompt and solution, as part of the completion, so that the policy learns to write it."""


def render_prompt(instruction: str, template: str = WIZARDMATH_PROMPT) -> str:
    """The template with the instruction in it. Braces in the instruction are left alone."""
    if "{instruction}" not in template:
        raise ValueError(f"the prompt template has no {{instruction}} field: {template!r}")
    return template.replace("{instruction}", instruction)
