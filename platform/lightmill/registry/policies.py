"""Masking policies by name and number: signed when they are added, verified whenever they are read.

A number is never given twice and its policy never changes, so that `staff@2` means the same for ever. Whoever can write
the catalog can take policies away, but cannot weaken one: it would not verify.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.masking import MaskingPolicy, SignedPolicy, parse_policy_reference
from lightmill.registry.signed import read_record
from lightmill.vault import KeyRing, canonical_json, verify

if TYPE_CHECKING:
    from lightmill.catalog import Catalog

POLICY_TYPE = "application/vnd.lightmill.masking-policy+json"
POLICY_MAX_BYTES = 1 << 20


class PolicyBook:
    """The masking policies of a deployment."""

    def __init__(self, catalog: Catalog, keyring: KeyRing) -> None:
        self._rows = catalog.masking_policies
        self._keyring = keyring

    def add(self, policy: MaskingPolicy) -> SignedPolicy:
        """Sign a policy under the next number of its name and keep it; one that is the newest already stays that.

        Raises:
            RequestError: The policy says a number (its `version`) that is not the one it gets, or it is too long.
            ConflictError: Somebody else adds one of this name at the same moment.
        """
        newest = self._rows.find(policy.name)
        if newest is not None:
            found = self._verified(policy.name, *newest)
            if found.policy.rules == policy.rules:
                return found
        number = newest[0] + 1 if newest else 1
        if "version" in policy.model_fields_set and policy.version != number:
            raise RequestError(
                f"The policy says version {policy.version}, and the next number of {policy.name!r} is {number}. Leave "
                "`version` out; the platform counts."
            )
        signer = self._keyring.signer
        made = SignedPolicy(
            policy=policy.model_copy(update={"version": number}),
            created=self._rows.now(),
            publisher=signer.key_id,
        )
        payload = canonical_json(made.model_dump(mode="json"))
        if len(payload) > POLICY_MAX_BYTES // 2:  # signing writes it as base64, which is longer
            raise RequestError(f"The policy has {len(payload):,} bytes as JSON; at most {POLICY_MAX_BYTES // 2:,} fit.")
        self._rows.add(policy.name, number, made.created, signer.sign(payload, POLICY_TYPE).decode())
        return made

    def list(self) -> builtins.list[SignedPolicy]:
        """Return all policies, by name and number.

        Raises:
            IntegrityError: One of them is not what was added.
        """
        return [self._verified(*row) for row in self._rows.list()]

    def get(self, reference: str) -> SignedPolicy:
        """Return the policy that `name@2` names, or with `name` the newest.

        Raises:
            RequestError: The reference is malformed.
            NotFoundError: There is none.
            IntegrityError: It is not what was added.
        """
        wanted = parse_policy_reference(reference)
        row = self._rows.find(wanted.name, wanted.seq)
        if row is None:
            known = [f"{name}@{version}" for name, version, _ in self._rows.list()]
            raise NotFoundError(
                f"There is no masking policy {reference!r} (there are: {', '.join(known[:20]) or 'none yet'}). Add one "
                "with `lightmill masking add FILE`."
            )
        return self._verified(wanted.name, *row)

    def settle(self, masking: MaskingPolicy | str) -> MaskingPolicy:
        """Return the policy that a specification means: the named one, or the one that is written out in it.

        Raises:
            RequestError: A policy that is written out has the name and number of another one that is kept here.
            NotFoundError: There is none of this name and number.
            IntegrityError: It is not what was added.
        """
        if isinstance(masking, str):
            return self.get(masking).policy
        row = self._rows.find(masking.name, masking.version)
        if row is not None and self._verified(masking.name, *row).policy.rules != masking.rules:
            raise RequestError(
                f"masking is written out as {masking.name!r} version {masking.version}, and the platform keeps another "
                f"policy of that name and number. Write `masking: {masking.name}@{masking.version}`, or choose another "
                "name."
            )
        return masking

    def _verified(self, name: str, version: int, signed: str) -> SignedPolicy:
        what = f"masking policy {name}@{version}"
        payload, key_id = verify(signed.encode(), POLICY_TYPE, self._keyring.trusted, name=what)
        found = read_record(SignedPolicy, payload, POLICY_MAX_BYTES, what)
        if (found.policy.name, found.policy.version, found.publisher) != (name, version, key_id):
            raise IntegrityError(f"The catalog holds another policy in place of {what}; restore it from a backup.")
        return found
