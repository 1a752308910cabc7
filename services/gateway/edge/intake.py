"""From a parsed body to a checked, tokenized call.

Comes in: structs whose types and ranges are right. Goes out: a `Call`, or a refusal.
Invariant: every rule that spans fields, the vocabulary or the model's context is checked here, before
anything behind the edge hears of the request.
Not here: JSON (`json_body`), shapes (`openai_calls`).
"""

from collections.abc import Mapping

from services.domain.blocks import CacheScope
from services.domain.errors import (
    ContextTooLong,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    UnknownModel,
)
from services.domain.ids import RequestId
from services.domain.placement import PathPreference
from services.domain.request import InferenceRequest
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.calls import Call, Envelope
from services.gateway.edge.messages import flatten_messages
from services.gateway.edge.openai_calls import ChatBody, CompletionBody
from services.gateway.edge.sampling import check_sampling, choose_seed, choose_stops
from services.gateway.edge.settings import EdgeSettings
from services.gateway.edge.tokenizing import Tokenizing
from services.gateway.edge.unserved import refuse_unserved
from services.gateway.port import ServeOptions, Serving
from services.runtime.clock import Clock

COMPLETION_TOKENS_DEFAULT = 16
"""`max_tokens` of a completion that names none, as in the OpenAI API."""

Prompt = tuple[int, ...]


class Intake:
    """Checks and tokenizes the calls of one gateway."""

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        serving: Serving,
        assets: Mapping[str, ModelAssets],
        tokenizing: Tokenizing,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._assets = assets
        self._tokenizing = tokenizing
        self._clock = clock

    async def chat(self, body: ChatBody, envelope: Envelope, *, reports_tokens: bool = False) -> Call:
        """Check and tokenize a chat call.

        Raises:
            Rejected: the call is wrong, or cannot be served now.
        """
        refuse_unserved(body)
        assets, context_tokens = self._model(body.model)
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequest(message="top_logprobs needs logprobs: true", param="top_logprobs")
        self._bound_choices(body.n or 1)
        template = assets.chat_template
        if template is None:
            raise InvalidRequest(message=f"model {body.model!r} has no chat template", param="messages")
        messages = flatten_messages(body.messages)
        chars = sum(len(m["content"]) for m in messages)
        encode = assets.vocabulary.encode
        prompt = await self._tokenizing.run(
            chars, lambda: encode(template.render(messages), add_special_tokens=False)
        )
        asked = body.max_completion_tokens or body.max_tokens
        return self._call(
            body=body,
            assets=assets,
            envelope=envelope,
            prompts=[_fits(prompt, context_tokens, "messages")],
            max_tokens=asked,
            max_tokens_default=self._settings.chat_output_tokens_max,
            context_tokens=context_tokens,
            logprobs_count=(body.top_logprobs or 0) if body.logprobs else None,
            reports_tokens=reports_tokens or bool(body.logprobs),
        )

    async def completion(
        self, body: CompletionBody, envelope: Envelope, *, reports_tokens: bool = False
    ) -> Call:
        """Check and tokenize a completion call.

        Raises:
            Rejected: the call is wrong, or cannot be served now.
        """
        refuse_unserved(body)
        assets, context_tokens = self._model(body.model)
        prompts = await self._prompts(body, assets)
        return self._call(
            body=body,
            assets=assets,
            envelope=envelope,
            prompts=[_fits(p, context_tokens, "prompt") for p in prompts],
            max_tokens=body.max_tokens,
            max_tokens_default=COMPLETION_TOKENS_DEFAULT,
            context_tokens=context_tokens,
            logprobs_count=body.logprobs,
            reports_tokens=reports_tokens or body.logprobs is not None,
        )

    def _model(self, name: str) -> tuple[ModelAssets, int]:
        """Find a model and its context in tokens."""
        assets = self._assets.get(name)
        served = next((m for m in self._serving.models() if m.name == name), None)
        if assets is None and served is None:
            raise UnknownModel(message=f"model {name!r} is not served here", model=name)
        if assets is None:
            raise NotReady(message=f"this gateway has no tokenizer for {name!r}", retry_after_s=10.0)
        if served is None:
            raise NotReady(message=f"no worker serves {name!r} yet", retry_after_s=1.0)
        return assets, min(assets.context_tokens_max, served.context_tokens_max)

    async def _prompts(self, body: CompletionBody, assets: ModelAssets) -> list[Prompt]:
        encode = assets.vocabulary.encode
        texts: list[str] = []
        ids: list[list[int]] = []
        flat: list[int] = []
        items = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        for item in items:
            match item:
                case str():
                    texts.append(item)
                case int():
                    flat.append(item)
                case list():
                    ids.append(item)
        if sum(map(bool, (texts, ids, flat))) != 1:
            raise InvalidRequest(message="prompt mixes texts and token ids", param="prompt")
        if flat:
            ids = [flat]
        self._bound_choices(max(len(texts), len(ids)) * (body.n or 1))
        for prompt in ids:
            _check_ids(prompt, assets.prompt_ids_max, "prompt")
        if ids:
            return [tuple(p) for p in ids]
        return await self._tokenizing.run(
            sum(map(len, texts)), lambda: [encode(t, add_special_tokens=True) for t in texts]
        )

    def _bound_choices(self, count: int) -> None:
        if count > self._settings.choices_max:
            raise InvalidRequest(
                message=f"prompts times n is {count}, at most {self._settings.choices_max} are served",
                param="n",
            )

    def _call(
        self,
        *,
        body: ChatBody | CompletionBody,
        assets: ModelAssets,
        envelope: Envelope,
        prompts: list[Prompt],
        max_tokens: int | None,
        max_tokens_default: int,
        context_tokens: int,
        logprobs_count: int | None,
        reports_tokens: bool,
    ) -> Call:
        if body.stream_options is not None and not body.stream:
            raise InvalidRequest(message="stream_options needs stream: true", param="stream_options")
        choices = body.n or 1
        sampling = check_sampling(body, logprobs_count=logprobs_count)
        _check_ids(sampling.stop_token_ids, assets.prompt_ids_max, "stop_token_ids")
        _check_ids([i for i, _ in sampling.logit_bias], assets.prompt_ids_max, "logit_bias")
        scope = CacheScope(model=body.model, salt=body.cache_salt or "")
        count = len(prompts) * choices
        lengths = {
            n: _choose_length(n, max_tokens, default=max_tokens_default, context_tokens=context_tokens)
            for n in map(len, prompts)
        }
        requests = [
            InferenceRequest(
                request_id=RequestId(envelope.request_id if count == 1 else f"{envelope.request_id}-{i}"),
                scope=scope,
                prompt_token_ids=prompt,
                sampling=choose_seed(sampling, i % choices, max_tokens=lengths[len(prompt)]),
                priority=body.priority or 0,
            )
            for i, prompt in enumerate(p for p in prompts for _ in range(choices))
        ]
        return Call(
            request_id=envelope.request_id,
            model=body.model,
            assets=assets,
            requests=tuple(requests),
            choices_per_prompt=choices,
            options=ServeOptions(
                deadline_s=self._left_s(envelope),
                preference=PathPreference(body.baton.prefill if body.baton else "auto"),
            ),
            stops=choose_stops(body),
            reports_tokens=reports_tokens,
        )

    def _left_s(self, envelope: Envelope) -> float | None:
        """Say what reading and tokenizing left of the caller's time.

        Raises:
            DeadlineExceeded: nothing.
        """
        if envelope.deadline_s is None:
            return None
        left_s = envelope.deadline_s - (self._clock.now_s() - envelope.arrived_s)
        if left_s <= 0:
            raise DeadlineExceeded(
                message=f"the deadline of {envelope.deadline_s:g} s passed while the request was read",
                deadline_s=envelope.deadline_s,
            )
        return left_s


def _fits(prompt: Prompt, context_tokens: int, param: str) -> Prompt:
    """Accept a prompt that leaves room for one token at least."""
    if not prompt:
        raise InvalidRequest(message=f"{param}: the prompt is empty", param=param)
    if len(prompt) >= context_tokens:
        raise ContextTooLong(
            message=f"the prompt has {len(prompt)} tokens, the model's context is {context_tokens}",
            prompt_tokens=len(prompt),
            limit_tokens=context_tokens,
        )
    return prompt


def _choose_length(prompt_tokens: int, asked: int | None, *, default: int, context_tokens: int) -> int:
    """Say how many tokens may be written behind a prompt."""
    left = context_tokens - prompt_tokens
    if asked is None:
        return min(left, default)
    if asked > left:
        raise ContextTooLong(
            message=f"the prompt has {prompt_tokens} tokens and max_tokens is {asked}, together more "
            f"than the model's context of {context_tokens}",
            prompt_tokens=prompt_tokens,
            limit_tokens=context_tokens,
        )
    return asked


def _check_ids(token_ids: "list[int] | tuple[int, ...]", below: int, param: str) -> None:
    if token_ids and max(token_ids) >= below:
        raise InvalidRequest(
            message=f"{param}: token ids of this model are below {below}, got {max(token_ids)}", param=param
        )
