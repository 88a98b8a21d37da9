"""Authlib: an application that signs people in, with `OAuth2Session`."""

import time

from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from place import CALLBACK, ISSUER, PLACE, Browser, check, finish, metadata, refused

META = metadata()
BROWSER = Browser()


def session(name="web", method="client_secret_basic", **more):
    client = PLACE["clients"][name]
    return OAuth2Session(
        client["client_id"],
        client.get("client_secret"),
        scope="openid profile email offline_access",
        redirect_uri=CALLBACK,
        code_challenge_method="S256",
        token_endpoint_auth_method=method,
        **more,
    )


def signed_in(oauth, verifier=None):
    sent = generate_token(48)
    address, state = oauth.create_authorization_url(META["authorization_endpoint"], code_verifier=sent, nonce=generate_token())
    answered = BROWSER.code_at(address)
    return oauth.fetch_token(
        META["token_endpoint"], authorization_response=answered, code_verifier=verifier or sent, state=state
    )


def active(oauth, token):
    return oauth.introspect_token(META["introspection_endpoint"], token=token).json()["active"]


@check("code with PKCE, and userinfo")
def _():
    oauth = session()
    assert signed_in(oauth)["token_type"] == "Bearer"
    assert oauth.get(META["userinfo_endpoint"]).json()["email"] == PLACE["account"]["email"]


@check("a public client")
def _():
    assert signed_in(session("native", "none"))["id_token"]


@check("a client with its secret in the body")
def _():
    assert signed_in(session("post", "client_secret_post"))["id_token"]


@check("another verifier")
def _():
    return refused(lambda: signed_in(session(), generate_token(48)), OAuthError)


@check("refresh rotates")
def _():
    oauth = session()
    before = signed_in(oauth)["refresh_token"]
    after = oauth.refresh_token(META["token_endpoint"])["refresh_token"]
    assert before != after
    assert oauth.get(META["userinfo_endpoint"]).ok


@check("a session renews by itself what has expired")
def _():
    renewed = []
    oauth = session(token_endpoint=META["token_endpoint"], update_token=lambda token, **_: renewed.append(token))
    old = signed_in(oauth)["access_token"]
    oauth.token["expires_at"] = int(time.time()) - 1
    assert oauth.get(META["userinfo_endpoint"]).ok
    assert renewed and renewed[0]["access_token"] != old


@check("a stolen refresh token ends the family")
def _():
    oauth = session()
    first = signed_in(oauth)["refresh_token"]
    oauth.refresh_token(META["token_endpoint"])
    last = oauth.refresh_token(META["token_endpoint"])
    refused(lambda: session().refresh_token(META["token_endpoint"], refresh_token=first), OAuthError)
    assert not active(oauth, last["access_token"])
    return refused(lambda: session().refresh_token(META["token_endpoint"], refresh_token=last["refresh_token"]), OAuthError)


@check("introspection and revocation of an access token")
def _():
    oauth = session()
    token = signed_in(oauth)["access_token"]
    assert active(oauth, token)
    assert oauth.revoke_token(META["revocation_endpoint"], token=token, token_type_hint="access_token").ok
    assert not active(oauth, token)
    assert oauth.get(META["userinfo_endpoint"]).status_code == 401


@check("revocation of a refresh token ends what it gave")
def _():
    oauth = session()
    tokens = dict(signed_in(oauth))
    assert oauth.revoke_token(META["revocation_endpoint"], token=tokens["refresh_token"], token_type_hint="refresh_token").ok
    assert not active(oauth, tokens["access_token"])
    return refused(lambda: session().refresh_token(META["token_endpoint"], refresh_token=tokens["refresh_token"]), OAuthError)


finish()
