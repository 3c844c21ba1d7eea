"""The study's web application: personal links, consent, one item a page, one vote a post.

A link is a capability: whoever has its token votes as that annotator, and there is no other right
in the browser (no cookie, no login) that another site could borrow. A vote also carries a signature
over its annotator, item and time that only a page of this server gives away, and counts once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from rationalize.errors import UserError
from rationalize.study import pages
from rationalize.study.design import Side, Study, load_study, order_for
from rationalize.study.store import AlreadyVoted, Annotator, Store, Vote

log = logging.getLogger(__name__)

LARGEST_BODY = 8192
"""Bytes of a post; a vote has a few hundred."""
BODY_TIMEOUT = 15.0
"""Seconds until a post must be there."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # the link stays here
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-robots-tag": "noindex",
}
"""Headers of every answer, errors among them."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_TYPES = {"study.css": "text/css", "study.js": "text/javascript"}


class _Problem(Exception):
    """What a request is refused with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def make_app(folder: Path) -> Callable[..., Any]:
    """The ASGI application of the study in `folder`."""
    study, store = load_study(folder), Store(folder)

    async def show(request: Request) -> Response:
        annotator = await run_in_threadpool(_annotator, store, request)
        return await run_in_threadpool(_page, study, store, annotator, request.url.path)

    async def consent(request: Request) -> Response:
        annotator = await run_in_threadpool(_annotator, store, request)
        form = await _form(request)
        if not store.signed(form.get("form", ""), "consent", annotator.id):
            raise _Problem(403, "This form was not made for your link. Open your link again.")
        await run_in_threadpool(store.consent, annotator.id)
        return _back(request)

    async def vote(request: Request) -> Response:
        annotator = await run_in_threadpool(_annotator, store, request)
        form = await _form(request)
        made = _vote(study, store, annotator, form, time.time())
        try:
            await run_in_threadpool(store.add, made)
        except AlreadyVoted:
            raise _Problem(409, "You have voted on this item; a vote counts once.") from None
        return _back(request)

    async def welcome(request: Request) -> Response:
        return _html(pages.message("Open your personal link to take part."))

    async def file(request: Request) -> Response:
        name = request.url.path.lstrip("/")
        return Response((pages.HOME / name).read_bytes(), media_type=_TYPES[name])

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, _Problem):
            token = request.path_params["token"]
            link = f"/s/{token}" if error.status != 404 else None
            return _html(pages.message(str(error), link=link), error.status)
        if isinstance(error, UserError):
            log.error("%s", error)
        status = getattr(error, "status_code", 500)
        told = {404: "There is no such page.", 405: "This cannot be done here."}
        return _html(pages.message(told.get(status, "This failed. Try again later.")), status)

    link = "/s/{token}"
    routes = [
        Route("/", welcome, methods=["GET"]),
        *(Route(f"/{name}", file, methods=["GET"]) for name in _TYPES),
        Route(link, show, methods=["GET"]),
        Route(f"{link}/consent", consent, methods=["POST"]),
        Route(f"{link}/vote", vote, methods=["POST"]),
    ]
    handlers: Any = {_Problem: refused, 404: refused, 405: refused, UserError: refused}
    return _with_headers(Starlette(routes=routes, exception_handlers=handlers))


def _annotator(store: Store, request: Request) -> Annotator:
    token = request.path_params["token"]
    annotator = store.annotator(token) if _TOKEN.fullmatch(token) else None
    if annotator is None:
        raise _Problem(404, "This link is not known. Check that all of it was copied.")
    return annotator


def _page(study: Study, store: Store, annotator: Annotator, link: str) -> Response:
    """The next thing that an annotator has to do; posts go below `link`."""
    if not annotator.consented:
        form = store.sign("consent", annotator.id)
        return _html(pages.consent(study, f"{link}/consent", form))
    order, done = order_for(study, annotator.id), store.answered(annotator.id)
    left = [(item, first) for item, first in order if item not in done]
    if not left:
        return _html(pages.message("That was the last one. Thank you!", study.asks.title))
    item, first = left[0]
    shown = f"{time.time():.3f}"
    form = store.sign("vote", annotator.id, item, shown)
    ballot = pages.Ballot(
        f"{link}/vote", {"item": str(item), "shown": shown, "form": form},
        done=len(order) - len(left), total=len(order),
    )  # fmt: skip
    return _html(pages.item(study, item, first, ballot))


def _vote(
    study: Study, store: Store, annotator: Annotator, form: Mapping[str, str], now: float
) -> Vote:
    """The vote in a form. Raises `_Problem` for one that was forged or is not complete."""
    item, shown = form.get("item", ""), form.get("shown", "")
    whose = ("vote", annotator.id, int(item) if re.fullmatch(r"\d{1,6}", item) else -1, shown)
    if not store.signed(form.get("form", ""), *whose):
        raise _Problem(403, "This form was not made for your link. Open your link again.")
    if not annotator.consented:
        raise _Problem(403, "Votes count after you have agreed. Open your link again.")
    number = int(item)
    first: Side | None = dict(order_for(study, annotator.id)).get(number)
    if first is None:
        raise _Problem(403, "This item is not among yours. Open your link again.")
    second: Side = "b" if first == "a" else "a"
    meaning = {"1": first, "2": second, "same": "same"}
    answers: dict[str, str] = {}
    for ask in study.asks.questions:
        fields = [f"{ask.name}/{n}" for n in "12"] if ask.kind == "each" else [ask.name]
        for field in fields:
            given = form.get(field)
            if given not in ask.answers:
                raise _Problem(400, "An answer is missing. Go back and answer every question.")
            name, _, side = field.partition("/")
            answers[f"{name}/{meaning[side]}" if side else name] = given if side else meaning[given]
    return Vote(annotator.id, number, answers, first, round(now - float(shown), 3), now)


async def _form(request: Request) -> dict[str, str]:
    """A small urlencoded form that a page of this server sent. Raises `_Problem`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in (None, "same-origin") or (origin and origin.partition("://")[2] != host):
        raise _Problem(403, "This was sent by another site. Open your link again.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise _Problem(415, "Expected the form of this page.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise _Problem(413, "This is larger than any vote.")
    except TimeoutError:
        raise _Problem(408, "Your vote did not arrive. Go back and send it again.") from None
    except ClientDisconnect:
        raise _Problem(400, "Your vote did not arrive. Go back and send it again.") from None
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=99
        )
    except ValueError:
        raise _Problem(400, "Expected the form of this page.") from None
    if len(dict(pairs)) < len(pairs):
        raise _Problem(400, "A field was sent twice. Open your link again.")
    return dict(pairs)


def _back(request: Request) -> Response:
    """To the link itself, by GET: reloading the next page sends nothing again."""
    return RedirectResponse(f"/s/{request.path_params['token']}", status_code=303)


def _html(page: str, status: int = 200) -> Response:
    return Response(page, status, media_type="text/html; charset=utf-8")


def _with_headers(app: Callable[..., Any]) -> Callable[..., Any]:
    """The application with `HEADERS` on whatever it answers."""

    async def with_headers(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return with_headers
