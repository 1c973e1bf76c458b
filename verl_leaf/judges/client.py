"""Calls of an OpenAI-compatible endpoint: in parallel, at a limited rate, with retries, within a budget.

Nothing that the endpoint sends is trusted: bodies have a size limit, counts and log-probabilities must be possible
values, and the key is masked in everything that is kept or shown.
"""

import asyncio
import email.utils
import hashlib
import ipaddress
import json
import logging
import math
import random
import re
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from verl_leaf.common.console import Console
from verl_leaf.common.files import LineStore
from verl_leaf.common.progress import track
from verl_leaf.judges.spec import JudgeSpec

TRIES = 8
FIRST_WAIT = 1.0  # seconds before the second try; each further wait is twice as long
LONGEST_WAIT = 60.0
AGAIN = (408, 429)  # 4xx status codes that are retried, like all 5xx codes
BYTES_PER_TOKEN = 3.5  # UTF-8 bytes per token for estimates; about 4 in English and 3 in Chinese
LARGEST_BODY = 16 * 2**20  # bytes, decoded
IMPOSSIBLE = -1e4  # log-probability in place of minus infinity, which JSON cannot express
MOST_TOKENS = 10**8  # largest token count of a call that is believed
SHORTEST_SECRET = 8  # shortest part of a key that is masked
GRADES = ("1", "2", "3", "4", "5")  # only these tokens' alternatives are kept
Alternatives = tuple[tuple[str, float], ...]  # texts with their log-probabilities
Tokens = tuple[tuple[str, Alternatives], ...]


class JudgeStopped(ValueError):
    """An error after which judging cannot continue. The replies so far are kept, and the same call resumes there."""


@dataclass(frozen=True)
class Reply:
    """A judge's reply and its token counts."""

    text: str  # text of the message
    # Tokens with their most likely alternatives and log-probabilities, which are kept only for tokens that are a digit
    # from 1 to 5. Empty if the endpoint returns no log-probabilities.
    tokens: Tokens
    # Counts that the endpoint reports.
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Call:
    """One question to a judge."""

    message: str
    sample: int  # number of the reply to this message, starting at 0
    what: str  # subject for error messages, such as "row 3"


@dataclass(frozen=True)
class Usage:
    """The cost of judging: the number of new calls and of cached replies, and the tokens and price of both."""

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost: float


# Replies by the digest of their request, so that no reply is paid for twice; None if a line cannot be read.
Cache = LineStore[str, Reply | None]


def open_cache(file: Path, console: Console) -> Cache:
    """Read the replies in a file. Replies that no judge can have given are reported, and will be asked for again."""
    poisoned: list[str] = []

    def parse(line: dict) -> tuple[str, Reply | None]:
        try:
            return line["key"], _reply(line["reply"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            poisoned.append(f"{line['key']:.12} ({error!r:.100})")
            return line["key"], None

    cache = LineStore(file, parse, "reply of a judge")
    if poisoned:
        console.print(f"{file}: {len(poisoned)} replies cannot be used and are dropped; the first is {poisoned[0]}")
    return cache


def ask_all(calls: list[Call], spec: JudgeSpec, cache: Cache, console: Console) -> tuple[dict[Call, Reply], Usage]:
    """Return replies to all calls, from the cache if it contains them; each reply is cached as soon as it arrives.

    Equal calls are made once.

    Raises:
        JudgeStopped: the endpoint refused a call, a call failed ``TRIES`` times, or the budget is spent.
    """
    keys = {call: _key(call, spec) for call in calls}
    wanted = {key: call for call, key in keys.items()}
    cached = {key: reply for key in wanted if (reply := cache.values.get(key))}
    new = {key: call for key, call in wanted.items() if key not in cached}
    spent = _cost(spec, filter(None, cache.values.values()))  # also for other systems' answers
    client = _Client(spec, cache, spent, console)
    _announce(spec, list(new.values()), len(cached), client.spent, console)
    for _ in track(client.make(new), f"Judge {spec.name}", len(new), console):
        pass
    replies = {key: reply for key in wanted if (reply := cache.values[key])}
    usage = Usage(
        calls=len(new),
        cached=len(cached),
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
    """Return a digest of everything that a reply depends on. The address is left out, because a server may move."""
    return hashlib.sha256(json.dumps([_body(call, spec), call.sample], sort_keys=True).encode()).hexdigest()


def _reply(values: dict) -> Reply:
    """Return a reply from its cached form; ValueError, KeyError, TypeError or AttributeError if it is not a reply."""
    tokens = tuple((_text(token), _possible(alternatives)) for token, alternatives in values["tokens"])
    counts = [values["input_tokens"], values["output_tokens"]]
    if any(_count(count) is None for count in counts):
        raise ValueError(f"{counts} tokens")
    return Reply(_text(values["text"]), tokens, *counts)


def _text(value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return value


def _possible(alternatives: Iterable) -> Alternatives:
    """Return the alternatives to a token, or raise ValueError if a log-probability is not a possible value."""
    pairs = tuple((_text(other), max(float(logprob), IMPOSSIBLE)) for other, logprob in alternatives)
    if not all(logprob <= 0.001 for _, logprob in pairs):  # also false for NaN; rounding makes some slightly positive
        raise ValueError(f"log-probabilities {[logprob for _, logprob in pairs]!r:.80}")
    return pairs


def _count(value) -> int | None:
    """Return a number of tokens, or None if the value cannot be one."""
    return int(value) if type(value) in (int, float) and 0 <= value <= MOST_TOKENS else None


def _cost(spec: JudgeSpec, replies: Iterable[Reply]) -> float:
    return sum(spec.cost(reply.input_tokens, reply.output_tokens) for reply in replies)


def _tokens(text: str) -> int:
    """Return an estimate of a text's number of tokens."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _announce(spec: JudgeSpec, calls: list[Call], cached: int, spent: float, console: Console) -> None:
    tokens_in, tokens_out = sum(_tokens(call.message) for call in calls), len(calls) * spec.max_tokens
    line = f"judge {spec.name}: {len(calls)} calls ({cached} more are cached); about {tokens_in} input tokens, "
    line += f"at most {tokens_out} output tokens"
    if spec.prices:
        cost = spec.cost(tokens_in, tokens_out)
        line += f", which cost at most {cost:.4g} ({spec.cost(tokens_in, 0):.4g} for the input)"
        if spec.budget is not None and spent + cost > spec.budget:
            line += f". It will stop before it exceeds the budget of {spec.budget:g}, of which {spent:.4g} is spent"
    console.print(line)


class _Again(Exception):
    """A failure that may pass, so that the call is tried again after ``wait`` seconds, if the server asks for them."""

    def __init__(self, reason: str, wait: float | None = None, charged: bool = False):
        super().__init__(reason)
        self.wait, self.charged = wait, charged


class _Client:
    def __init__(self, spec: JudgeSpec, cache: Cache, spent: float, console: Console):
        self._spec, self._cache, self._console = spec, cache, console
        self._told: set[str] = set()  # problems that have been printed
        self._secrets = [secret for secret in (spec.key, spec.login and spec.login[1]) if secret]
        self._proxy = _proxy_of(spec.endpoint)
        self.spent = spent
        self._under_way, self._reserved = 0, 0.0  # number of calls, and the most that they may cost
        self._next_start = 0.0  # earliest start of the next call, on the monotonic clock
        self._stopping = asyncio.Event()
        self._stopped: JudgeStopped | None = None

    def make(self, calls: Mapping[str, Call]) -> Iterator[str]:
        """Make the calls, and yield the key of each reply that is now in the cache.

        A JudgeStopped is raised after the running calls have ended.
        """
        loop = asyncio.new_event_loop()
        arrived: asyncio.Queue[str | None] = asyncio.Queue()
        work = loop.create_task(self._work(iter(calls.items()), arrived))
        try:
            while (key := loop.run_until_complete(arrived.get())) is not None:
                yield key
            loop.run_until_complete(work)
        finally:
            tasks = {work, *asyncio.all_tasks(loop)}  # some remain after an interrupt or if the disk is full
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()
        if self._stopped:
            raise self._stopped

    async def _work(self, calls: Iterator[tuple[str, Call]], arrived: asyncio.Queue) -> None:
        spec = self._spec
        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug log shows headers, which may repeat the key
        settings: dict[str, Any] = {
            "headers": {"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {spec.key}"} if spec.key else {}),
            "auth": spec.login,
            "timeout": spec.timeout,
            "limits": httpx.Limits(max_connections=spec.concurrency),
            "trust_env": not _is_loopback(spec.endpoint),
        }
        try:
            async with httpx.AsyncClient(**settings) as http:
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
        """Return a reply after up to ``TRIES`` tries."""
        most = self._spec.cost(_tokens(call.message), self._spec.max_tokens)
        for number in range(1, TRIES + 1):
            await self._turn()
            await self._reserve(most)
            cost = 0.0
            try:
                reply = await asyncio.wait_for(self._try(http, call), self._spec.timeout)
                cost = self._spec.cost(reply.input_tokens, reply.output_tokens)
                return reply
            except (asyncio.TimeoutError, httpx.TimeoutException):
                cost, reason, wait = most, f"no answer in {self._spec.timeout:g} s", None
            except httpx.ProxyError as error:
                raise self._stop(call, f"the proxy refused the call: {error}") from error
            except httpx.RequestError as error:
                cost, reason, wait = most, f"{type(error).__name__}: {error}".rstrip(": "), None
            except _Again as error:
                cost, reason, wait = most if error.charged else 0.0, str(error), error.wait
            finally:
                self._under_way, self._reserved = self._under_way - 1, self._reserved - most
                self.spent += cost
            if number < TRIES:
                await self._wait(number, wait, reason, call)
        raise self._stop(call, f"{TRIES} tries failed, the last with: {reason}. Run the command again when it works")

    async def _wait(self, number: int, wanted: float | None, reason: str, call: Call) -> None:
        """Wait after a try that failed with ``reason``; all calls wait as long as the server asks."""
        self._tell(call, f"{reason}; trying again")
        if wanted is not None and wanted > 10 * LONGEST_WAIT:
            raise self._stop(call, f"the server asks for a pause of {wanted:.0f} s. Run the command again after that")
        self._next_start = max(self._next_start, time.monotonic() + (wanted or 0))
        await self._pause(random.uniform(0.5, 1) * min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)))

    def _tell(self, call: Call, what: str) -> None:
        what = self._masked(what)
        if what not in self._told:
            self._told.add(what)
            self._console.print(f"judge {self._spec.name}, {call.what}: {what}")

    async def _turn(self) -> None:
        """Wait until the rate limit and the server allow the next call."""
        start = max(time.monotonic(), self._next_start)
        self._next_start = start + (60 / self._spec.rate if self._spec.rate else 0)
        await self._pause(start - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the judging stops."""
        try:
            await asyncio.wait_for(self._stopping.wait(), max(seconds, 0))
        except asyncio.TimeoutError:
            return
        raise self._stopped or JudgeStopped("stopped")

    async def _reserve(self, most: float) -> None:
        """Reserve what a call may cost. If only the running calls' real cost shows whether the budget suffices, wait for them."""
        spec = self._spec
        while spec.budget is not None and self.spent + self._reserved + most > spec.budget:
            if not self._under_way:
                raise JudgeStopped(
                    f"judge {spec.name}: the next call could exceed the budget of {spec.budget:g}, of which {self.spent:.4g} "
                    "is spent. The replies are kept. Raise the budget, and run the command again"
                )
            await self._pause(0.02)
        self._under_way, self._reserved = self._under_way + 1, self._reserved + most

    def _stop(self, call: Call, reason: str) -> JudgeStopped:
        proxy = f" through the proxy {self._proxy}" if self._proxy else ""
        return JudgeStopped(
            f"judge {self._spec.name} at {self._spec.endpoint}{proxy}, {call.what}: {self._masked(reason)}. "
            "The replies so far are kept"
        )

    async def _try(self, http: httpx.AsyncClient, call: Call) -> Reply:
        url = f"{self._spec.endpoint}/chat/completions"
        async with http.stream("POST", url, json=_body(call, self._spec)) as response:
            content = await _content(response)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        said = self._message(body, content)
        if response.status_code in AGAIN or response.status_code >= 500:
            raise _Again(f"status {response.status_code}: {said}", _retry_after(response))
        if response.status_code != 200:
            raise self._stop(call, f"refused with status {response.status_code}: {said}")
        try:
            return self._parsed(body, call)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Again(f"a reply that is not a chat completion: {said}", charged=True) from error

    def _message(self, body: Any, content: bytes) -> str:
        """Return a server's error message in one line, without the key."""
        try:
            said = body["error"] if isinstance(body["error"], str) else body["error"]["message"]
        except (KeyError, TypeError, IndexError):
            said = content[:10_000].decode(errors="replace")
        return " ".join(self._masked(str(said)[:10_000]).split())[:300]

    def _masked(self, text: str) -> str:
        """Return a text in which the key and the password, and parts of them, are masked."""
        for secret in self._secrets:
            parts = (secret[start : start + SHORTEST_SECRET] for start in range(len(secret) - SHORTEST_SECRET + 1))
            for part in (secret, *parts):
                text = text.replace(part, "***")
        return text

    def _parsed(self, body: Any, call: Call) -> Reply:
        choice, usage = body["choices"][0], body.get("usage") or {}
        content = choice["message"]["content"] or ""
        if isinstance(content, list):  # some servers return a list of parts
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        text = self._masked(_text(content))
        reported = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        tokens_in, tokens_out = map(_count, reported)
        if usage and None in (tokens_in, tokens_out):
            problem = f"the server reports {reported!r:.100} tokens, which is impossible. They are estimated instead"
            self._tell(call, problem)
        return Reply(text, self._tokens(choice), tokens_in or _tokens(call.message), tokens_out or _tokens(text))

    def _tokens(self, choice: dict) -> Tokens:
        """Return the tokens with alternatives to grades; none if they spell the key or a log-probability is impossible."""
        listed = (choice.get("logprobs") or {}).get("content") or []
        texts = [_token_text(token) for token in listed]
        if self._masked("".join(texts)) != "".join(texts):
            return ()
        try:
            return tuple((text, _alternatives(token)) for text, token in zip(texts, listed, strict=True))
        except ValueError:
            return ()


async def _content(response: httpx.Response) -> bytes:
    """Return the decompressed body, unless it is too large or has an encoding that was not requested."""
    packed = response.headers.get("content-encoding", "identity")
    if packed not in ("identity", "gzip"):
        raise _Again(f"a body in the encoding {packed!r:.40}", charged=True)
    gzip, content = zlib.decompressobj(wbits=31), bytearray()
    async for part in response.aiter_raw():
        try:
            content += part if packed == "identity" else gzip.decompress(part, LARGEST_BODY + 1)
        except zlib.error as error:
            raise _Again(f"a body that is not in gzip ({error})", charged=True) from error
        if len(content) > LARGEST_BODY:
            raise _Again(f"a body of more than {LARGEST_BODY // 2**20} MiB", charged=True)
    return bytes(content)


def _is_loopback(endpoint: str) -> bool:
    host = httpx.URL(endpoint).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _proxy_of(endpoint: str) -> str | None:
    """Return the proxy that the environment sets for an address, without its login; None for addresses of this machine."""
    url = httpx.URL(endpoint)
    if _is_loopback(endpoint) or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy and re.sub("//.*@", "//", proxy)


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a server asks to wait, given as a number or a date, or None."""
    said = response.headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", said):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _token_text(token: dict) -> str:
    """Return a token's text; incomplete UTF-8 bytes become lone surrogates."""
    data = token.get("bytes")
    return bytes(data).decode(errors="surrogateescape") if isinstance(data, list) else _text(token["token"])


def _alternatives(token: dict) -> Alternatives:
    if _text(token["token"]).strip() not in GRADES:
        return ()
    return _possible((_token_text(other), other["logprob"]) for other in token.get("top_logprobs") or ())
