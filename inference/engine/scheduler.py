"""
Which sequences run in a stage's next step.  Integers and queues, no torch, no clock.

Theory of operation
-------------------
A request is hidden states of some tokens of one session, from a position on.  A step
of the stage is one pass over tokens of many requests.  The scheduler decides which:

    submit --> queue of its session --> decode requests (few tokens), oldest first
                                    \\-> prefill requests, in turns, cut into chunks
                     plan() --> [Work, ...] --engine--> finish() --> requests done

The rules:

1.  Decode first.  A reader waits for each of these tokens, and in a pass that reads
    all weights anyway they cost next to nothing.
2.  A step has a budget of tokens, because everybody waits for the whole step.  While
    anyone else has a session here the budget is small; a prefill that is alone gets a
    large one, since nobody waits.
3.  Prefills leave a quarter of the budget to running sessions; decodes leave
    `PREFILL_GRAIN` tokens to prefills while there are any.  So neither starves.
4.  Prefills share what they get evenly, no less than a grain each, and whoever was
    served goes to the end of the queue: a short prompt behind a long one is not stuck,
    and a long one goes on however many short ones come.

An engine that cannot take a prompt in pieces (`splits` False) gets one prefill request
a step, whole.

Positions are judged when a request is submitted: against the length that its session
will have when the requests before it are done.  A request that fails takes those
behind it in its session along.

Sessions that begin alike share full pages (prefix_index.py).  A shared page is never
written: a session that goes back into one gets a page of its own in its place, with a
copy of what stays.  Sharing saves work and not room: every session is still promised
its full length, so whatever they share, there is a page when one is needed, and pages
that only wait to be found again are the first to go.

Spec: docs/adr/0030-two-engines.md, docs/adr/0036-prefix-cache.md
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inference.device.memory import PAGE_TOKENS, CacheCost, Reservations
from inference.engine.pages import PagePool, PageRun, build_runs
from inference.engine.prefix_index import PrefixIndex
from inference.errors import Busy, UnknownSession, WrongPosition
from inference.protocol.steps import MAX_DECODE_TOKENS

STEP_TOKENS = 64
"""Budget of a step that others wait for.  A matrix product over 64 rows runs at the
full speed of a CPU core; more rows would only take longer."""
LONE_STEP_TOKENS = 512
"""Budget of a step for which nobody else waits."""
PREFILL_GRAIN = 16
"""Fewest tokens of a chunk, but for the last: below it a pass reads all the weights
for next to nothing."""
DECODE_TOKENS = MAX_DECODE_TOKENS
"""A request of no more tokens is a decode step: one token and what was guessed."""
MAX_REQUESTS = 256
"""One per session; whoever sends more has to wait for answers."""
CHOICE = 4
"""Where no pages lie side by side, so many times what a session needs is to be free, if
it can be: its pieces are then few."""


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one request that run in a step."""

    call: int
    session_id: bytes
    pages: tuple[PageRun, ...]
    """Of the whole session."""
    position: int
    """Of the first token in its sequence."""
    offset: int
    """Of the first token in its request."""
    tokens: int
    is_last: bool
    """Nothing of the request is left after it."""


@dataclass(slots=True)
class _Request:
    call: int
    session_id: bytes
    position: int
    tokens: int
    done: int = 0

    @property
    def left(self) -> int:
        return self.tokens - self.done

    @property
    def is_decode(self) -> bool:
        return self.tokens <= DECODE_TOKENS


@dataclass(frozen=True, slots=True)
class PageCopy:
    """What one page holds goes to another one, before anything else is written."""

    source: int
    target: int


@dataclass(slots=True)
class _Session:
    max_positions: int
    pages: list[int]
    length: int = 0
    """Positions that are in the store."""
    planned: int = 0
    """Length when everything that is queued is done."""
    queue: deque[_Request] = field(default_factory=deque)
    named: set[int] = field(default_factory=set)
    """Which of its pages, counted from 0, have names and may be shared."""
    runs: tuple[PageRun, ...] = ()
    """Its pages."""

    def __post_init__(self) -> None:
        self.runs = build_runs(self.pages)


class Scheduler:
    """The sessions of one stage and their requests."""

    def __init__(
        self,
        cost: CacheCost,
        budget_bytes: int,
        *,
        splits: bool = True,
        step_tokens: int = STEP_TOKENS,
        lone_step_tokens: int = LONE_STEP_TOKENS,
    ) -> None:
        """Begin with no sessions.

        Args:
            cost: What a session takes.
            budget_bytes: What all of them may take.
            splits: Whether the engine takes a request in pieces.
            step_tokens: Budget while several sessions are open.
            lone_step_tokens: Budget while there is one.
        """
        assert step_tokens >= 2 * PREFILL_GRAIN
        self.reservations = Reservations(cost, budget_bytes)
        self._pool = PagePool(cost.count_budget_pages(budget_bytes))
        self._index = PrefixIndex()
        self._copies: list[PageCopy] = []
        self._splits = splits
        self._step_tokens = step_tokens
        self._lone_step_tokens = lone_step_tokens
        self._sessions: dict[bytes, _Session] = {}
        # The first request of every session that has one, oldest first.
        self._decodes: deque[_Request] = deque()
        self._prefills: deque[_Request] = deque()
        self._waiting = 0

    @property
    def has_work(self) -> bool:
        """Whether a plan would not be empty."""
        return bool(self._decodes or self._prefills)

    def get_length(self, session_id: bytes) -> int:
        """Return how many positions of a session are in the store."""
        return self._sessions[session_id].length

    def open_session(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        """Admit a session of at most `max_positions` tokens.

        Args:
            session_id: Its name.
            max_positions: At least 1.
            keys: Of its first full pages; those that are here are shared with it.

        Returns:
            How many positions are here already.

        Raises:
            BadRequest: The name is in use or not a name, or no positions.
            Busy: No room for it now.
        """
        self.reservations.open(session_id, max_positions)
        # The last position is never taken from here: its answer is to be computed.
        shared = self._index.hold(keys[: (max_positions - 1) // PAGE_TOKENS])
        place = shared[-1] + 1 if shared else None
        pages = self.reservations.cost.count_pages(max_positions)
        own = self._take_pages(pages - len(shared), place)
        length = len(shared) * PAGE_TOKENS
        self._sessions[session_id] = _Session(
            max_positions,
            [*shared, *own],
            length=length,
            planned=length,
            named=set(range(len(shared))),
        )
        return length

    def close_session(self, session_id: bytes) -> list[int]:
        """Forget a session; return the calls of its requests that will not run."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return []
        dropped = self._drop_queue(session)
        self.reservations.close(session_id)
        named = sorted(session.named, reverse=True)
        self._index.let_go(session.pages[index] for index in named)
        own = (p for index, p in enumerate(session.pages) if index not in session.named)
        self._pool.give_back(build_runs(sorted(own)))
        return dropped

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        """Name full pages of a session, so that others find them, now and later.

        Pages that are not full yet, and keys that are known, are left as they are.

        Args:
            session_id: A session; one that is not open is no matter.
            first: Which of its pages the first key is for, counted from 0.
            keys: One per page.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return
        full = session.length // PAGE_TOKENS
        for index, key in enumerate(keys[: max(0, full - first)], first):
            if self._index.add(key, session.pages[index]):
                session.named.add(index)

    def find_pages(self, keys: Sequence[bytes]) -> list[int]:
        """Return pages by name, as far as they are known, to be read at once."""
        return self._index.find(keys)

    def get_next_pages(self, session_id: bytes, pages: int) -> list[int]:
        """Return the next pages of a session, to be written with what is known.

        Args:
            session_id: A session that has computed nothing.
            pages: At least 1.

        Raises:
            UnknownSession, WrongPosition: The session cannot take them.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession("no such session is open in this stage")
        first, rest = divmod(session.length, PAGE_TOKENS)
        length = session.length + pages * PAGE_TOKENS
        if rest or session.queue or not pages > 0 or length >= session.max_positions:
            raise WrongPosition(f"{pages} pages behind {session.length} positions")
        return session.pages[first : first + pages]

    def skip_pages(self, session_id: bytes, pages: int) -> int:
        """Count pages that were written; return how many positions there are then."""
        session = self._sessions[session_id]
        session.length += pages * PAGE_TOKENS
        session.planned = session.length
        return session.length

    def take_copies(self) -> list[PageCopy]:
        """Return what is to be copied before the next step, in order; once."""
        copies, self._copies = self._copies, []
        return copies

    def submit(self, call: int, session_id: bytes, position: int, tokens: int) -> None:
        """Queue a request of `tokens` tokens from `position` on.

        Args:
            call: Names the request in plans and results.
            session_id: An open session.
            position: At most where the session will then stand; an earlier one rolls
                it back first.
            tokens: At least 1.

        Raises:
            UnknownSession, WrongPosition: The session cannot take this request.
            Busy: Too many requests wait.
        """
        assert tokens > 0
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession("no such session is open in this stage")
        if not 0 <= position <= session.planned:
            raise WrongPosition(f"position {position}; the next one is "
                                f"{session.planned}")  # fmt: skip
        if position + tokens > session.max_positions:
            raise WrongPosition(
                f"{position + tokens} positions; opened for {session.max_positions}"
            )
        if self._waiting >= MAX_REQUESTS:
            raise Busy(f"{MAX_REQUESTS} requests wait for this stage")
        request = _Request(call, session_id, position, tokens)
        session.planned = position + tokens
        session.queue.append(request)
        self._waiting += 1
        if len(session.queue) == 1:
            self._begin(session)

    def plan(self) -> list[Work]:
        """Return what runs in the next step; `finish` or `fail` every item of it."""
        works: list[Work] = []
        # Others may come with a token at any time, so an open session counts.
        is_lone = len(self._sessions) == 1
        budget = self._lone_step_tokens if is_lone else self._step_tokens
        reserve = PREFILL_GRAIN if self._prefills else 0
        left = budget
        for request in self._decodes:
            if request.left > left - reserve:
                break
            works.append(self._build_work(request, request.left))
            left -= request.left
        if not self._prefills:
            return works
        if not self._splits:
            request = self._prefills[0]
            return [*works, self._build_work(request, request.left)]
        kept = 0 if is_lone else budget // 4
        for request, tokens in self._share(min(left, budget - kept)):
            works.append(self._build_work(request, tokens))
        return works

    def finish(self, works: Iterable[Work]) -> list[int]:
        """Count what has run; return the calls of the requests that are done.

        Work of a session that was closed meanwhile counts for nothing.
        """
        done: list[int] = []
        for work in works:
            session = self._sessions.get(work.session_id)
            if session is None or not session.queue:
                continue
            request = session.queue[0]
            if request.call != work.call:
                continue
            request.done += work.tokens
            session.length = request.position + request.done
            queue = self._decodes if request.is_decode else self._prefills
            queue.remove(request)
            if request.left:
                queue.append(request)
            else:
                done.append(request.call)
                session.queue.popleft()
                self._waiting -= 1
                self._begin(session)
        return done

    def fail(self, session_id: bytes) -> list[int]:
        """Give up what a session has queued; return the calls.

        The session stays as it was after its last finished work.
        """
        session = self._sessions.get(session_id)
        return [] if session is None else self._drop_queue(session)

    def _begin(self, session: _Session) -> None:
        """Let the first request of a session wait for its turn."""
        if session.queue:
            request = session.queue[0]
            session.length = min(session.length, request.position)
            self._make_own(session, request.position)
            (self._decodes if request.is_decode else self._prefills).append(request)

    def _make_own(self, session: _Session, position: int) -> None:
        """Let nobody else have the pages of a session from `position` on."""
        first = position // PAGE_TOKENS
        for index in sorted(i for i in session.named if i >= first):
            session.named.discard(index)
            page = session.pages[index]
            if self._index.claim(page):
                continue
            self._index.let_go([page])
            [own] = self._take_pages(1)
            session.pages[index] = own
            if index == first and position % PAGE_TOKENS:
                self._copies.append(PageCopy(page, own))
            session.runs = build_runs(session.pages)

    def _take_pages(self, pages: int, place: int | None = None) -> list[int]:
        """Return free pages, side by side if forgetting what was kept can make that.

        There are enough: sessions were promised no more than all, and what they do
        not use is free or can be forgotten.
        """
        if not pages:
            return []
        is_run_possible = self._pool.has_run(pages, self._index.list_unused())
        while not self._pool.has_run(pages):
            if not is_run_possible and self._pool.free_pages >= CHOICE * pages:
                break
            page = self._index.evict()
            if page is None:
                break
            self._pool.give_back((PageRun(page, 1),))
        runs = self._pool.take(pages, place)
        return [page for run in runs for page in range(run.start, run.end)]

    def _drop_queue(self, session: _Session) -> list[int]:
        if session.queue:
            first = session.queue[0]
            (self._decodes if first.is_decode else self._prefills).remove(first)
        dropped = [request.call for request in session.queue]
        self._waiting -= len(dropped)
        session.queue.clear()
        session.planned = session.length
        return dropped

    def _share(self, budget: int) -> list[tuple[_Request, int]]:
        """Share `budget` tokens evenly among prefills; no grain is too small.

        At least `PREFILL_GRAIN` must be there.  What short requests do not need goes
        to the others.
        """
        chosen = list(self._prefills)[: max(1, budget // PREFILL_GRAIN)]
        shares: list[tuple[_Request, int]] = []
        # Shortest first: an even share of the rest is then never too small.
        for index, request in enumerate(sorted(chosen, key=lambda r: r.left)):
            tokens = min(request.left, budget // (len(chosen) - index))
            shares.append((request, tokens))
            budget -= tokens
        return shares

    def _build_work(self, request: _Request, tokens: int) -> Work:
        return Work(
            call=request.call,
            session_id=request.session_id,
            pages=self._sessions[request.session_id].runs,
            position=request.position + request.done,
            offset=request.done,
            tokens=tokens,
            is_last=tokens == request.left,
        )
