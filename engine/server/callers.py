"""Who calls: the owner of a key, or anybody where keys are not asked for."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request


@dataclass(frozen=True)
class Caller:
    """Whose requests and files a call is about. owner: None sees everybody's."""

    owner: str | None


async def find_caller(request: Request) -> Caller:
    """Who calls; HTTPException 401 for who may not."""
    caller = Caller(None)
    request.scope["lightfill.owner"] = caller.owner  # for the log
    return caller


Who = Annotated[Caller, Depends(find_caller)]
"""The parameter of a route that only known callers may use."""
