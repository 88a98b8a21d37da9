//! An application that signs people in by OAuth, and the browser of one of them, as far as plain HTTP goes.
use crate::client::Answer;
use crate::server::PASSWORD;
use crate::server::TestServer;
use portcullis_wire::{Digest, b64};
use serde_json::{Value, json};

/// Where its answers go. Nothing listens there: who follows redirects stops before it.
pub const REDIRECT: &str = "http://127.0.0.1:9/cb";
/// The PKCE verifier of every request.
pub const VERIFIER: &str = "a-code-verifier-that-is-long-enough-for-rfc7636";

/// A registered application.
#[derive(Debug, Clone)]
pub struct Application {
    /// Its id.
    pub id: String,
    /// Its secret; empty for a public one.
    pub secret: String,
}

/// The parameters of a query or a form.
pub fn encode(pairs: &[(&str, &str)]) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    let word = |text: &str| text.bytes().map(byte).collect::<String>();
    pairs.iter().map(|(name, value)| format!("{}={}", word(name), word(value))).collect::<Vec<_>>().join("&")
}

/// A parameter of the address that a redirect leads to.
pub fn parameter(location: &str, name: &str) -> Option<String> {
    let query = location.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

impl TestServer {
    /// Registers an application; `more` are further members of its registration.
    pub async fn application(&self, kind: &str, more: Value) -> Application {
        let admin = self.admin().await;
        let mut body = json!({
            "name": "An app", "kind": kind, "redirect_uris": [REDIRECT],
            "scopes": ["openid", "profile", "email", "offline_access", "read"],
        });
        for (name, value) in more.as_object().expect("members") {
            body[name] = value.clone();
        }
        let made = self.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await;
        let made = made.expect(201).json();
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        Application { id: text("client_id"), secret: text("client_secret") }
    }

    /// Signs a browser in with the usual password; its page cookie.
    pub async fn page_sign_in(&self, email: &str) -> String {
        let form = encode(&[("identifier", email), ("password", PASSWORD)]);
        let answer = self.client.post("/sign-in").header("origin", &self.issuer).form(&form).send().await.expect(303);
        answer.cookie("__Host-portcullis_session").expect("a page cookie")
    }

    /// Sends a browser with this cookie to the authorization endpoint; `more` are further parameters, or others instead.
    pub async fn authorize(&self, app: &Application, cookie: &str, more: &[(&str, &str)]) -> Answer {
        self.client
            .get(format!("/oauth2/authorize?{}", request(app, more)))
            .header("cookie", format!("__Host-portcullis_session={cookie}"))
            .send()
            .await
    }

    /// Answers the question that an authorization request led to.
    pub async fn decide(&self, page: &str, cookie: &str, decision: &str) -> Answer {
        let hidden = |name: &str| {
            let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).expect("a hidden field");
            value.split('"').next().unwrap_or_default().replace("&amp;", "&").replace("&#x2f;", "/")
        };
        let form = encode(&[("request", &hidden("request")), ("shown", &hidden("shown")), ("decision", decision)]);
        self.client
            .post("/oauth2/consent")
            .header("origin", &self.issuer)
            .header("cookie", format!("__Host-portcullis_session={cookie}"))
            .form(&form)
            .send()
            .await
    }

    /// A code for this scope, allowed if it has to be.
    pub async fn code(&self, app: &Application, cookie: &str, scope: &str) -> String {
        let mut answer = self.authorize(app, cookie, &[("scope", scope)]).await;
        if answer.status == 200 {
            answer = self.decide(&answer.text(), cookie, "allow").await;
        }
        let place = answer.expect(303).header("location").to_owned();
        parameter(&place, "code").unwrap_or_else(|| panic!("no code in {place}"))
    }

    /// A call of the token endpoint.
    pub async fn token(&self, app: &Application, pairs: &[(&str, &str)]) -> Answer {
        let call = self.client.post("/oauth2/token");
        if app.secret.is_empty() {
            return call.form(&encode(&[&[("client_id", app.id.as_str())], pairs].concat())).send().await;
        }
        call.basic((&app.id, &app.secret)).form(&encode(pairs)).send().await
    }

    /// Redeems a code.
    pub async fn redeem(&self, app: &Application, code: &str) -> Answer {
        let pairs = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.token(app, &pairs).await
    }

    /// Tokens for this scope.
    pub async fn granted(&self, app: &Application, cookie: &str, scope: &str) -> Value {
        let code = self.code(app, cookie, scope).await;
        self.redeem(app, &code).await.expect(200).json()
    }

    /// Exchanges a refresh token.
    pub async fn refresh_for(&self, app: &Application, refresh: &str) -> Answer {
        self.token(app, &[("grant_type", "refresh_token"), ("refresh_token", refresh)]).await
    }
}

/// The query of an authorization request. An empty value in `more` leaves a parameter out.
pub fn request(app: &Application, more: &[(&str, &str)]) -> String {
    let challenge = b64::encode(&Digest::of(VERIFIER.as_bytes()).0);
    let usual = [
        ("client_id", app.id.as_str()),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("scope", "openid read"),
        ("state", "a state"),
        ("nonce", "a nonce"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let kept = usual.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let all: Vec<_> = kept.chain(more.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    encode(&all)
}
