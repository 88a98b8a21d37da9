"""What `cargo xtask interop` started for this script, checks with names, and a browser as far as plain HTTP goes."""

import base64
import hashlib
import hmac
import html
import json
import os
import re
import secrets
import sys
import traceback
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import requests

PLACE = json.loads(os.environ["PORTCULLIS_INTEROP"])
ISSUER = PLACE["issuer"]
CALLBACK = "http://127.0.0.1:9/cb"

_counts = {"passed": 0, "failed": 0}


def check(name):
    """Runs the function below it at once, as a check with this name."""

    def run(body):
        try:
            said = body()
            _counts["passed"] += 1
            print(f"ok      {name}" + (f" ({said})" if said else ""))
        except Exception:
            _counts["failed"] += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}")
        return body

    return run


def finish():
    word = "FAILED" if _counts["failed"] else "ok"
    print(f"test result: {word}. {_counts['passed']} passed; {_counts['failed']} failed; 0 ignored")
    sys.exit(0 if _counts["passed"] and not _counts["failed"] else 1)


def refused(attempt, *expected):
    """It must be refused by one of these exceptions; which."""
    try:
        done = attempt()
    except expected as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"it was not refused: {done}")


class Browser:
    """Cookies, redirects and the two forms of this server. Its cookies are kept by hand: they are `Secure`, as browsers take
    them from loopback over plain HTTP too."""

    def __init__(self):
        self.cookies = {}

    def code_at(self, address):
        """From an authorization request to the address that it is answered at."""
        method, form = "GET", None
        for _ in range(12):
            headers = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}
            if form:
                headers["origin"] = ISSUER
            answer = requests.request(method, address, data=form, headers=headers, allow_redirects=False, timeout=30)
            for line in answer.raw.headers.getlist("set-cookie"):
                name, value = line.split(";")[0].split("=", 1)
                self.cookies[name] = value
            if answer.is_redirect:
                method, form, address = "GET", None, urljoin(address, answer.headers["location"])
                if address.startswith(CALLBACK):
                    return address
                continue
            method, (address, form) = "POST", self._filled(address, answer)
        raise AssertionError(f"still on the way, at {address}")

    def _filled(self, address, answer):
        found = re.search(r"<form\b[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", answer.text, re.S)
        assert found and answer.ok, f"{answer.status_code} {answer.text[:800]}"
        hidden = re.findall(r"<input type=\"hidden\" name=\"([^\"]+)\" value=\"([^\"]*)\"", found[2])
        form = {name: html.unescape(value) for name, value in hidden}
        if 'name="password"' in found[2]:
            form |= {"identifier": PLACE["account"]["email"], "password": PLACE["account"]["password"]}
        else:
            form |= {"decision": "allow"}
        return urljoin(address, html.unescape(found[1])), form


def granted(scope="openid email"):
    """What the token endpoint gives the client `web`, without a library."""
    client = PLACE["clients"]["web"]
    verifier = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "client_id": client["client_id"],
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": scope,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    address = Browser().code_at(f"{ISSUER}/oauth2/authorize?{urlencode(asked)}")
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(address).query)["code"][0],
        "redirect_uri": CALLBACK,
        "code_verifier": verifier,
    }
    answer = requests.post(
        f"{ISSUER}/oauth2/token", data=form, auth=(client["client_id"], client["client_secret"]), timeout=30
    )
    answer.raise_for_status()
    return answer.json()


def metadata():
    return requests.get(f"{ISSUER}/.well-known/openid-configuration", timeout=30).json()


def _part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _read(part):
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def bad(token, jwks):
    """Tokens that nobody may take for good, each made from a good one."""
    header, claims, signature = token.split(".")
    said = _read(header)
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    as_secret = f"{_part(said | {'alg': 'HS256'})}.{claims}"
    mac = hmac.new(json.dumps(jwks).encode(), as_secret.encode(), "sha256").digest()
    return {
        "a tampered signature": f"{header}.{claims}.{signature[:middle]}{other}{signature[middle + 1:]}",
        "no signature": f"{header}.{claims}.",
        "tampered claims": f"{header}.{_part(_read(claims) | {'sub': 'acc_somebodyelse'})}.{signature}",
        "alg none": f"{_part(said | {'alg': 'none'})}.{claims}.",
        "alg none, with a signature": f"{_part(said | {'alg': 'none'})}.{claims}.{signature}",
        "HS256 by the public keys": f"{as_secret}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}",
        "an unknown key": f"{_part(said | {'kid': 'nothing'})}.{claims}.{signature}",
    }
