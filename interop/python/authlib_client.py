"""Authlib: an application that signs people in, with `OAuth2Session`."""

import json
import pathlib
import time
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey
from place import CALLBACK, ISSUER, PLACE, Browser, check, finish, metadata, refused

META = metadata()
BROWSER = Browser()
KEYED = json.loads((pathlib.Path(__file__).parent.parent / "keyed.json").read_text())


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


def keyed(key):
    """The client that proves itself with a key (RFC 7523)."""
    oauth = OAuth2Session(
        PLACE["clients"]["keyed"]["client_id"],
        key,
        scope="openid offline_access",
        redirect_uri=CALLBACK,
        code_challenge_method="S256",
        token_endpoint_auth_method="private_key_jwt",
    )
    oauth.register_client_auth_method(PrivateKeyJWT(META["token_endpoint"], headers={"kid": KEYED["kid"]}, alg="ES256"))
    return oauth


@check("a client with a key instead of a secret (private_key_jwt)")
def _():
    assert "private_key_jwt" in META["token_endpoint_auth_methods_supported"]
    oauth = keyed(ECKey.import_key(KEYED))
    before = signed_in(oauth)["refresh_token"]
    assert oauth.refresh_token(META["token_endpoint"])["refresh_token"] != before
    assert oauth.get(META["userinfo_endpoint"]).ok


@check("another key under the same name")
def _():
    thief = keyed(ECKey.generate_key("P-256"))
    return refused(lambda: thief.refresh_token(META["token_endpoint"], refresh_token="x"), OAuthError)


@check("client credentials")
def _():
    client = PLACE["clients"]["service"]
    oauth = OAuth2Session(client["client_id"], client["client_secret"], scope="read")
    token = oauth.fetch_token(META["token_endpoint"], grant_type="client_credentials")
    assert "refresh_token" not in token and active(oauth, token["access_token"])


@check("device flow: pending, then refused by its user (RFC 8628)")
def _():
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    assert grant in META["grant_types_supported"]
    client = PLACE["clients"]["device"]["client_id"]
    oauth = OAuth2Session(client, token_endpoint_auth_method="none")
    begun = requests.post(
        META["device_authorization_endpoint"], data={"client_id": client, "scope": "openid"}, timeout=30
    ).json()
    poll = lambda: oauth.fetch_token(META["token_endpoint"], grant_type=grant, device_code=begun["device_code"])
    assert "authorization_pending" in refused(poll, OAuthError)
    return refused(poll, OAuthError)


@check("token exchange: who acts stands in the token (RFC 8693)")
def _():
    grant = "urn:ietf:params:oauth:grant-type:token-exchange"
    assert grant in META["grant_types_supported"]
    user = OAuth2Session(
        PLACE["clients"]["web"]["client_id"],
        PLACE["clients"]["web"]["client_secret"],
        scope="openid read",
        redirect_uri=CALLBACK,
        code_challenge_method="S256",
    )
    subject = signed_in(user)["access_token"]
    client = PLACE["clients"]["calls"]
    service = OAuth2Session(client["client_id"], client["client_secret"])
    token = service.fetch_token(
        META["token_endpoint"],
        grant_type=grant,
        subject_token=subject,
        subject_token_type="urn:ietf:params:oauth:token-type:access_token",
        audience="https://orders.example.org/",
    )
    told = service.introspect_token(META["introspection_endpoint"], token=token["access_token"]).json()
    assert told["active"] and told["sub"] == PLACE["account"]["id"] and told["act"]["sub"].startswith("acc_")
    assert "refresh_token" not in token


@check("a pushed request (RFC 9126)")
def _():
    oauth = session()
    verifier = generate_token(48)
    address, state = oauth.create_authorization_url(META["authorization_endpoint"], code_verifier=verifier, nonce=generate_token())
    asked = dict(parse_qsl(urlsplit(address).query))
    client = PLACE["clients"]["web"]
    pushed = requests.post(
        META["pushed_authorization_request_endpoint"], data=asked, auth=(client["client_id"], client["client_secret"]), timeout=30
    )
    assert pushed.status_code == 201, pushed.text
    query = urlencode({"client_id": client["client_id"], "request_uri": pushed.json()["request_uri"]})
    answered = BROWSER.code_at(f"{META['authorization_endpoint']}?{query}")
    token = oauth.fetch_token(
        META["token_endpoint"], authorization_response=answered, code_verifier=verifier, state=state
    )
    assert token["id_token"]


def patiently(attempt):
    """With the first client that wants an algorithm comes a key, which signs once everybody may have read it: 503 until then."""
    for _ in range(20):
        try:
            return attempt()
        except requests.HTTPError as error:
            if error.response.status_code != 503:
                raise
            time.sleep(1)
    return attempt()


@check("a client registers itself, signs somebody in, and is gone (RFC 7591, RFC 7592)")
def _():
    letting = {"authorization": f"Bearer {PLACE['registration_token']}"}
    wanted = {"client_name": "By itself", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_basic"}
    answer = requests.post(META["registration_endpoint"], json=wanted, headers=letting, timeout=30)
    assert answer.status_code == 201, answer.text
    client = answer.json()
    oauth = OAuth2Session(
        client["client_id"], client["client_secret"], scope="openid", redirect_uri=CALLBACK, code_challenge_method="S256"
    )
    assert patiently(lambda: signed_in(oauth))["id_token"]
    own = {"authorization": f"Bearer {client['registration_access_token']}"}
    place = client["registration_client_uri"]
    known = {name: client[name] for name in ["client_id", "client_secret", "token_endpoint_auth_method"]}
    written = requests.put(place, json=known | wanted | {"client_name": "Another name"}, headers=own, timeout=30)
    assert written.ok and written.json()["client_name"] == "Another name", written.text
    assert requests.get(place, headers=own, timeout=30).json()["client_name"] == "Another name"
    assert requests.delete(place, headers=own, timeout=30).status_code == 204
    assert requests.get(place, headers=own, timeout=30).status_code == 401
    assert oauth.get(META["userinfo_endpoint"]).status_code == 401


finish()
