"""What an adapter is trained on: the policy that training starts from, with or without one."""

from __future__ import annotations

from restem.checkpoints import orbax
from restem.checkpoints.policy import AdapterOrigin, Policy
from restem.errors import UserError
from restem.models import lora
from restem.models.lora import Lora


def starting_policy(policy: Policy, form: Lora | None) -> Policy:
    """Returns the policy from which an M-step starts, and whose `adapter` names what it trains.

    A policy that carries an adapter of this form is trained further. Adapters of another form are
    merged into the weights first. All hosts call it.

    Args:
      policy: its parameters stay as they are.
      form: of the adapter to train; None: all parameters are trained.

    Raises:
      UserError: the form does not fit the model.
    """
    origin = policy.adapter
    is_merged = origin is not None and origin.form != form
    if is_merged:
        whole = lora.merge(lora.dequantize_base(policy.params))
        policy = policy.replace(params=whole, adapter=None)
    if form is None or policy.adapter is not None:
        return policy
    try:
        lora.shapes(policy.params, form)
    except ValueError as error:
        raise UserError(f"improve.adapter: {error}") from error
    origin = AdapterOrigin(
        form=form,
        base=policy.reference,
        base_dtype=str(policy.params["embedding"].dtype),
        base_sha256=None if is_merged else orbax.fingerprint(policy.params),
    )
    return policy.replace(adapter=origin)
