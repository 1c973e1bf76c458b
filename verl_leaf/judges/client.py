"""Calls of an OpenAI-compatible endpoint: at once, at a rate, again where that may help, within a budget."""

import asyncio
import email.utils
import hashlib
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from verl_leaf.common.console import Console
from verl_leaf.common.files import LineStore
from verl_leaf.common.progress import track
from verl_leaf.judges.spec import JudgeSpec

TRIES = 8
FIRST_WAIT = 1.0  # seconds before the second try, twice as many before each further one
LONGEST_WAIT = 60.0
AGAIN = (408, 429)  # of the 4xx; all 5xx too
BYTES_PER_TOKEN = 3.5  # of UTF-8, for the estimate: about 4 in English, 3 in Chinese

Cache = LineStore[str, dict]  # replies by the digest of what was asked: what was paid for is never asked again


class JudgeStopped(ValueError):
    """The judging cannot go on; what was replied so far is kept, and the same call goes on from there."""


@dataclass(frozen=True)
class Reply:
    """What a judge said, and at what price.

    Attributes:
        text: of the message.
        tokens: each token with its most likely alternatives and their log-probabilities, which are kept for those
            that are one of the digits 1 to 5; empty where the endpoint gives none.
        input_tokens, output_tokens: as the endpoint counts them.
    """

    text: str
    tokens: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Call:
    """One question to a judge.

    Attributes:
        message: to send.
        sample: which of the replies to it, from 0.
        what: it is about, for errors, as in "row 3".
    """

    message: str
    sample: int
    what: str


@dataclass(frozen=True)
class Usage:
    """What a judging took: calls made now, replies that were there already, and tokens and cost of both."""

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost: float


def open_cache(file: Path) -> Cache:
    """Read the replies that a file holds."""
    return LineStore(file, lambda line: (line["key"], line["reply"]), "reply of a judge")


def ask_all(calls: list[Call], spec: JudgeSpec, cache: Cache, console: Console) -> tuple[dict[Call, Reply], Usage]:
    """Replies to all calls, from the cache where it has them; each is in the cache as soon as it is there.

    Calls that ask the same are made once.

    Raises:
        JudgeStopped: the endpoint refused a call, did not answer one after ``TRIES`` tries, or the budget is spent.
    """
    keys = {call: _key(call, spec) for call in calls}
    wanted = {key: call for call, key in keys.items()}
    new = {key: call for key, call in wanted.items() if key not in cache.values}
    client = _Client(spec, cache, _cost(spec, [_reply(cache, key) for key in wanted if key not in new]), console)
    _announce(spec, list(new.values()), len(wanted) - len(new), client.spent, console)
    for _ in track(client.make(new), f"Judge {spec.name}", len(new), console):
        pass
    replies = {key: _reply(cache, key) for key in wanted}
    usage = Usage(
        calls=len(new),
        cached=len(wanted) - len(new),
        input_tokens=sum(reply.input_tokens for reply in replies.values()),
        output_tokens=sum(reply.output_tokens for reply in replies.values()),
        cost=_cost(spec, replies.values()),
    )
    return {call: replies[key] for call, key in keys.items()}, usage


def _body(call: Call, spec: JudgeSpec) -> dict:
    body = {
        "model": spec.model,
        "messages": [{"role": "user", "content": call.message}],
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
    }
    if spec.kind == "likert" and spec.logprobs:
        body |= {"logprobs": True, "top_logprobs": 20}
    return {name: value for name, value in (body | spec.extra_body).items() if value is not None}


def _key(call: Call, spec: JudgeSpec) -> str:
    """Digest of all that a reply depends on. The address is not in it: a server may move."""
    return hashlib.sha256(json.dumps([_body(call, spec), call.sample], sort_keys=True).encode()).hexdigest()


def _reply(cache: Cache, key: str) -> Reply:
    values = cache.values[key]
    tokens = tuple((token, tuple(map(tuple, alternatives))) for token, alternatives in values["tokens"])
    return Reply(**{**values, "tokens": tokens})


def _cost(spec: JudgeSpec, replies: Iterable[Reply]) -> float:
    return sum(spec.cost(reply.input_tokens, reply.output_tokens) for reply in replies)


def _tokens(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _announce(spec: JudgeSpec, calls: list[Call], cached: int, spent: float, console: Console) -> None:
    """Say what is about to be asked, and what it may cost."""
    tokens_in, tokens_out = sum(_tokens(call.message) for call in calls), len(calls) * spec.max_tokens
    line = f"judge {spec.name}: {len(calls)} calls, {cached} more are in the cache; about {tokens_in} tokens to read, "
    line += f"at most {tokens_out} to write"
    if spec.prices:
        cost = spec.cost(tokens_in, tokens_out)
        line += f", at most {cost:.4g} to pay ({spec.cost(tokens_in, 0):.4g} of it for reading)"
        if spec.budget is not None and spent + cost > spec.budget:
            line += f"; it stops before it exceeds the budget of {spec.budget:g}, of which {spent:.4g} is spent"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Again(Exception):
    """A try failed in a way that may pass.

    Args:
        reason: for the user.
        wait: seconds that the server asks for, if it does.
        charged: the endpoint may charge for it.
    """

    def __init__(self, reason: str, wait: float | None = None, charged: bool = False):
        super().__init__(reason)
        self.wait, self.charged = wait, charged


class _Client:
    def __init__(self, spec: JudgeSpec, cache: Cache, spent: float, console: Console):
        self._spec, self._cache, self._console = spec, cache, console
        self._told: set[str] = set()  # what is wrong, each once
        self.spent = spent
        self._reserved = 0.0  # the most that calls under way may cost
        self._next_start = 0.0  # of a call, on the monotonic clock
        self._stopping = asyncio.Event()
        self._stopped: JudgeStopped | None = None

    def make(self, calls: Mapping[str, Call]) -> Iterator[str]:
        """Make the calls and yield the key of each whose reply is in the cache now.

        Raises:
            JudgeStopped: once those under way have ended.
        """
        loop = asyncio.new_event_loop()
        arrived: asyncio.Queue[str | None] = asyncio.Queue()
        work = loop.create_task(self._work(iter(calls.items()), arrived))
        try:
            while (key := loop.run_until_complete(arrived.get())) is not None:
                yield key
            loop.run_until_complete(work)
        finally:
            tasks = {work, *asyncio.all_tasks(loop)}  # some are left after an interrupt, or where the disk is full
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()
        if self._stopped:
            raise self._stopped

    async def _work(self, calls: Iterator[tuple[str, Call]], arrived: asyncio.Queue) -> None:
        spec = self._spec
        headers = {"Authorization": f"Bearer {spec.key}"} if spec.key else {}
        limits = httpx.Limits(max_connections=spec.concurrency)
        try:
            async with httpx.AsyncClient(headers=headers, timeout=spec.timeout, limits=limits) as http:
                await asyncio.gather(*(self._worker(http, calls, arrived) for _ in range(spec.concurrency)))
        finally:
            arrived.put_nowait(None)

    async def _worker(self, http: httpx.AsyncClient, calls: Iterator[tuple[str, Call]], arrived: asyncio.Queue) -> None:
        for key, call in calls:
            try:
                reply = await self._persist(http, call)
            except JudgeStopped as stopped:
                self._stopped = self._stopped or stopped
                self._stopping.set()
                return
            self._cache.append(json.dumps({"key": key, "reply": asdict(reply)}))
            arrived.put_nowait(key)

    async def _persist(self, http: httpx.AsyncClient, call: Call) -> Reply:
        """One reply, after as many tries as it takes.

        Raises:
            JudgeStopped: see :func:`ask_all`.
        """
        most = self._spec.cost(_tokens(call.message), self._spec.max_tokens)
        for number in range(1, TRIES + 1):
            await self._turn()
            self._reserve(most)
            cost = 0.0
            try:
                reply = await asyncio.wait_for(self._try(http, call), self._spec.timeout)
                cost = self._spec.cost(reply.input_tokens, reply.output_tokens)
                return reply
            except (asyncio.TimeoutError, httpx.TimeoutException):
                cost, reason, wait = most, f"no answer in {self._spec.timeout:g} s", None
            except httpx.RequestError as error:
                cost, reason, wait = most, f"{type(error).__name__}: {error}".rstrip(": "), None
            except _Again as error:
                cost, reason, wait = most if error.charged else 0.0, str(error), error.wait
            finally:
                self._reserved -= most
                self.spent += cost
            if number < TRIES:
                await self._wait(number, wait, reason, call)
        raise self._stop(call, f"{TRIES} tries failed, the last with: {reason}. Give the command again when it works")

    async def _wait(self, number: int, wanted: float | None, reason: str, call: Call) -> None:
        """Wait after a try that failed with ``reason``, all calls where the server says for how long."""
        if reason not in self._told:
            self._told.add(reason)
            self._console.print(
                f"judge {self._spec.name}, {call.what}: {reason}; trying again",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if wanted is None:
            await self._pause(random.uniform(0.5, 1) * min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)))
        elif wanted > 10 * LONGEST_WAIT:
            raise self._stop(call, f"the server wants no call for {wanted:.0f} s. Give the command again after that")
        else:
            self._next_start = max(self._next_start, time.monotonic() + wanted)

    async def _turn(self) -> None:
        """Wait for the rate, and for what the server asked for."""
        start = max(time.monotonic(), self._next_start)
        self._next_start = start + (60 / self._spec.rate if self._spec.rate else 0)
        await self._pause(start - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless all stops."""
        try:
            await asyncio.wait_for(self._stopping.wait(), max(seconds, 0))
        except asyncio.TimeoutError:
            return
        raise self._stopped or JudgeStopped("stopped")

    def _reserve(self, most: float) -> None:
        spec = self._spec
        if spec.budget is not None and self.spent + self._reserved + most > spec.budget:
            raise JudgeStopped(
                f"judge {spec.name}: the budget of {spec.budget:g} could be exceeded by the next call, "
                f"{self.spent:.4g} is spent. What was replied is kept: raise budget, and give the command again"
            )
        self._reserved += most

    def _stop(self, call: Call, reason: str) -> JudgeStopped:
        return JudgeStopped(
            f"judge {self._spec.name} at {self._spec.url}, {call.what}: {reason}; what was replied is kept"
        )

    async def _try(self, http: httpx.AsyncClient, call: Call) -> Reply:
        response = await http.post(f"{self._spec.url}/chat/completions", json=_body(call, self._spec))
        said = self._message(response)
        if response.status_code in AGAIN or response.status_code >= 500:
            raise _Again(f"status {response.status_code}: {said}", _retry_after(response))
        if response.status_code != 200:
            raise self._stop(call, f"refused with status {response.status_code}: {said}")
        try:
            return _parsed(response.json(), call)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Again(f"a reply that is no chat completion: {said}", charged=True) from error

    def _message(self, response: httpx.Response) -> str:
        """What a server says in an error, in a line and without the key."""
        try:
            said = response.json()["error"]
            said = said if isinstance(said, str) else said["message"]
        except (ValueError, KeyError, TypeError):
            said = response.text
        said = " ".join(str(said).split())[:300]
        return said.replace(self._spec.key, "***") if self._spec.key else said


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that a server asks to wait, as a number or as a date."""
    said = response.headers.get("retry-after", "")
    if said.replace(".", "", 1).isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _parsed(body: dict, call: Call) -> Reply:
    choice, usage = body["choices"][0], body.get("usage") or {}
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError(f"content is {text!r:.80}; it must be a text")
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return Reply(
        text=text,
        tokens=tuple((_text(token), _alternatives(token)) for token in tokens),
        input_tokens=int(usage.get("prompt_tokens") or _tokens(call.message)),
        output_tokens=int(usage.get("completion_tokens") or _tokens(text)),
    )


def _text(token: dict) -> str:
    """A token's text; where it is a part of a character, its bytes as lone surrogates."""
    data = token.get("bytes")
    return token["token"] if data is None else bytes(data).decode(errors="surrogateescape")


def _alternatives(token: dict) -> tuple[tuple[str, float], ...]:
    if token["token"].strip() not in ("1", "2", "3", "4", "5"):
        return ()
    return tuple((_text(other), float(other["logprob"])) for other in token.get("top_logprobs") or ())
