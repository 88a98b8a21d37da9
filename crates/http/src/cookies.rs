//! The cookies (DESIGN §8): `__Host-portcullis_session` for pages, `__Host-portcullis_refresh` for programs in browsers that
//! chose `transport: "cookie"`, and `__Host-portcullis_device`, the mark of a device that signed in before. HttpOnly, Secure, SameSite=Lax, for this host alone (RFC 6265bis §4.1.3.2).
//!
//! Over plain HTTP they are for loopback only, where browsers take `Secure` cookies all the same: the tests show it of Chromium. A
//! browser that does not needs TLS in front, in development too.
//!
//! Only a certain end clears a cookie. A fault, a refusal that another device caused, or doubt leaves it where it is.
use http::{HeaderMap, header};
use portcullis_app::App;
use portcullis_domain::known_device;
use portcullis_domain::model::Session;
use portcullis_wire::{SecretString, Time};

/// The cookie of pages.
pub const SESSION: &str = "__Host-portcullis_session";
/// The cookie that holds a refresh token.
pub const REFRESH: &str = "__Host-portcullis_refresh";

/// The cookie that marks a known device: no credential, only a budget of its own for guesses. It is not cleared by a sign-out.
pub const DEVICE: &str = "__Host-portcullis_device";

/// The cookie that a sign-in at another provider is bound to. Of no use without such a sign-in, and gone soon.
pub const UPSTREAM: &str = "__Host-portcullis_upstream";

/// A `Set-Cookie` for that, for as long as somebody may be away. Lax: the browser comes back from another site.
pub fn set_upstream(secret: &SecretString) -> String {
    let seconds = portcullis_domain::upstream::LIFE / 1000;
    format!("{UPSTREAM}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}", secret.expose())
}

/// The first cookie of this name.
pub fn read(headers: &HeaderMap, name: &str) -> Option<SecretString> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| SecretString::new(value.trim_matches('"')))
}

/// A `Set-Cookie` that lasts as long as its session may. The value has characters of base64url only.
pub fn set(name: &str, value: &SecretString, session: &Session, now: Time) -> String {
    let seconds = session.absolute_expires_at.since(now).div_euclid(1000).max(0);
    format!("{name}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}", value.expose())
}

/// A `Set-Cookie` that marks a known device, for as long as the mark counts.
pub fn set_device(mark: &SecretString) -> String {
    let seconds = known_device::LIFE / 1000;
    format!("{DEVICE}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}", mark.expose())
}

/// A `Set-Cookie` that takes the cookie away.
pub fn clear(name: &str) -> String {
    format!("{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// After an end: takes away those cookies of the request whose sessions have certainly ended.
pub(crate) async fn clear_dead(app: &App, headers: &HeaderMap) -> Vec<String> {
    let mut out = vec![];
    if let Some(cookie) = read(headers, SESSION)
        && app.page_cookie_ended(&cookie).await
    {
        out.push(clear(SESSION));
    }
    if let Some(cookie) = read(headers, REFRESH)
        && app.refresh_token_ended(&cookie).await
    {
        out.push(clear(REFRESH));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; __Host-portcullis_refreshed=no".parse().unwrap());
        headers.append(header::COOKIE, "b=2; __Host-portcullis_refresh=pcr_x; c=3".parse().unwrap());
        assert_eq!(read(&headers, REFRESH).unwrap().expose(), "pcr_x");
        assert!(read(&headers, SESSION).is_none());
    }
}
