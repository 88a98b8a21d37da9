"""PyJWT: access and ID tokens verified offline, by the public keys alone."""

import jwt
from place import ISSUER, PLACE, bad, check, finish, granted, metadata, refused

META = metadata()
KEYS = jwt.PyJWKClient(META["jwks_uri"])
TOKENS = granted()
CLIENT = PLACE["clients"]["web"]["client_id"]
ALGORITHMS = [PLACE["algorithm"]]


def access(token, audience=PLACE["audience"], issuer=ISSUER, **more):
    """As a service does it: PyJWT leaves `typ` to its caller (RFC 9068 §4)."""
    if jwt.get_unverified_header(token).get("typ") != "at+jwt":
        raise jwt.InvalidTokenError("not an access token")
    key = KEYS.get_signing_key_from_jwt(token)
    return jwt.decode(token, key, ALGORITHMS, audience=audience, issuer=issuer, options={"require": ["exp", "iat", "sub", "jti"]}, **more)


def identity(token):
    key = KEYS.get_signing_key_from_jwt(token)
    return jwt.decode(token, key, META["id_token_signing_alg_values_supported"], audience=CLIENT, issuer=ISSUER, options={"require": ["exp", "iat", "sub", "auth_time"]})


@check("an access token (RFC 9068)")
def _():
    assert access(TOKENS["access_token"])["client_id"] == CLIENT


@check("an ID token")
def _():
    assert identity(TOKENS["id_token"])["email"] == PLACE["account"]["email"]


@check("an ID token as access token")
def _():
    return refused(lambda: access(TOKENS["id_token"], audience=CLIENT), jwt.InvalidTokenError)


@check("an access token as ID token")
def _():
    return refused(lambda: identity(TOKENS["access_token"]), jwt.InvalidAudienceError, jwt.MissingRequiredClaimError)


@check("for another audience")
def _():
    return refused(lambda: access(TOKENS["access_token"], audience="https://other.example"), jwt.InvalidAudienceError)


@check("of another issuer")
def _():
    return refused(lambda: access(TOKENS["access_token"], issuer="https://other.example"), jwt.InvalidIssuerError)


@check("after its time")
def _():
    late = -(TOKENS["expires_in"] + 1)
    return refused(lambda: access(TOKENS["access_token"], leeway=late), jwt.ExpiredSignatureError, jwt.ImmatureSignatureError)


for name, token in bad(TOKENS["access_token"], KEYS.fetch_data()).items():
    check(name)(lambda token=token: refused(lambda: access(token), jwt.PyJWTError))
finish()
