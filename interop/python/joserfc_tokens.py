"""joserfc: access and ID tokens verified offline, by the public keys alone."""

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from place import ISSUER, PLACE, bad, check, finish, granted, metadata, refused

META = metadata()
LISTED = requests.get(META["jwks_uri"], timeout=30).json()
KEYS = KeySet.import_key_set(LISTED)
TOKENS = granted()
CLIENT = PLACE["clients"]["web"]["client_id"]


def access(token, audience=PLACE["audience"], issuer=ISSUER, now=None):
    """As a service does it (RFC 9068 §4)."""
    read = jwt.decode(token, KEYS, algorithms=[PLACE["algorithm"]])
    if read.header.get("typ") != "at+jwt":
        raise JoseError("not an access token")
    rules = jwt.JWTClaimsRegistry(now=now, iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience}, exp={"essential": True})
    rules.validate(read.claims)
    return read.claims


def identity(token):
    read = jwt.decode(token, KEYS, algorithms=META["id_token_signing_alg_values_supported"])
    rules = jwt.JWTClaimsRegistry(iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": CLIENT}, exp={"essential": True}, auth_time={"essential": True})
    rules.validate(read.claims)
    return read.claims


@check("an access token (RFC 9068)")
def _():
    assert access(TOKENS["access_token"])["client_id"] == CLIENT


@check("an ID token")
def _():
    assert identity(TOKENS["id_token"])["email"] == PLACE["account"]["email"]


@check("an ID token as access token")
def _():
    return refused(lambda: access(TOKENS["id_token"], audience=CLIENT), JoseError)


@check("an access token as ID token")
def _():
    return refused(lambda: identity(TOKENS["access_token"]), JoseError)


@check("for another audience")
def _():
    return refused(lambda: access(TOKENS["access_token"], audience="https://other.example"), JoseError)


@check("of another issuer")
def _():
    return refused(lambda: access(TOKENS["access_token"], issuer="https://other.example"), JoseError)


@check("after its time")
def _():
    late = access(TOKENS["access_token"])["exp"] + 1
    return refused(lambda: access(TOKENS["access_token"], now=late), JoseError)


for name, token in bad(TOKENS["access_token"], LISTED).items():
    check(name)(lambda token=token: refused(lambda: access(token), JoseError, ValueError))
finish()
