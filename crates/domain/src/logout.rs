//! Logout by an application: where a browser may be sent afterwards (OpenID Connect RP-Initiated Logout 1.0), what clients are told
//! by the server (Back-Channel Logout 1.0), and what the browser loads of them (Front-Channel Logout 1.0).
use crate::model::Client;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use portcullis_wire::{ClientId, SessionId, Time, TokenId};
use serde::{Deserialize, Serialize};

/// `typ` of logout tokens (Back-Channel Logout §2.4): never that of an ID token or an access token.
pub const TYP: &str = "logout+jwt";
/// What `events` names (the same).
pub const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// For how long a logout token counts, in seconds (the same: two minutes are recommended). Each try makes a new one, with the same `jti`.
pub const LIFE_S: i64 = 120;

/// The claims of a logout token. There is no `nonce`, so that it is never taken for an ID token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutClaims {
    /// Issuer.
    pub iss: String,
    /// Who, as this client knows them.
    pub sub: String,
    /// The client.
    pub aud: String,
    /// When it was made.
    pub iat: i64,
    /// Not accepted from then on.
    pub exp: i64,
    /// One for each message, whatever number of times it is sent.
    pub jti: String,
    /// That it is a logout.
    pub events: BTreeMap<String, BTreeMap<String, String>>,
    /// The session that has ended.
    pub sid: SessionId,
}

/// The logout token about a session for a client that knows its user as `sub`.
pub fn claims(issuer: &str, sub: String, client: ClientId, sid: SessionId, now: Time, jti: TokenId) -> LogoutClaims {
    let iat = now.secs();
    LogoutClaims {
        iss: issuer.into(),
        sub,
        aud: client.to_string(),
        iat,
        exp: iat + LIFE_S,
        jti: jti.to_string(),
        events: BTreeMap::from([(EVENT.to_string(), BTreeMap::new())]),
        sid,
    }
}

/// Where the browser is sent after a logout: an address that the client has registered, as it stands there, with `state`
/// (RP-Initiated Logout §2, §3). `None` for any other: then it stays here, and whoever made the address up has gained nothing.
pub fn place_after(client: Option<&Client>, uri: Option<&str>, state: Option<&str>) -> Option<String> {
    let (client, uri) = (client.filter(|client| !client.disabled)?, uri?);
    if !client.profile.post_logout_redirect_uris.iter().any(|known| known == uri) {
        return None;
    }
    Some(match state {
        Some(state) => with_pairs(uri, &[("state", state)]),
        None => uri.into(),
    })
}

/// What a browser loads of a client when this session has ended (Front-Channel Logout §2): with issuer and session when the client
/// asked for them.
pub fn frame(client: &Client, issuer: &str, session: SessionId) -> Option<String> {
    let uri = client.profile.frontchannel_logout_uri.as_deref().filter(|_| !client.disabled)?;
    Some(match client.profile.frontchannel_logout_session_required {
        true => with_pairs(uri, &[("iss", issuer), ("sid", &session.to_string())]),
        false => uri.into(),
    })
}

/// What a browser loads, `most` at most: of each client one frame first, then a second of each, and so on, so that no client's many
/// sessions leave out others. An address that comes again is loaded once. `of_clients`: each client's frames, in its order.
pub fn frames(of_clients: &[Vec<String>], most: usize) -> Vec<String> {
    let longest = of_clients.iter().map(Vec::len).max().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let in_turn = (0..longest).flat_map(|n| of_clients.iter().filter_map(move |frames| frames.get(n)));
    in_turn.filter(|frame| seen.insert(*frame)).take(most).cloned().collect()
}

/// An address with more parameters in its query.
fn with_pairs(uri: &str, pairs: &[(&str, &str)]) -> String {
    let mut out = String::from(uri);
    for (name, value) in pairs {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;
    use crate::client::Profile;
    use crate::model::ClientKind;
    use alloc::vec;

    fn client() -> Client {
        let profile = Profile {
            post_logout_redirect_uris: vec!["https://rp.example/bye".into(), "https://rp.example/bye?a=1".into()],
            frontchannel_logout_uri: Some("https://rp.example/front?x=1".into()),
            ..Profile::default()
        };
        Client {
            id: ClientId::from_bits(3),
            name: "RP".into(),
            kind: ClientKind::Confidential,
            secret: None,
            old_secret: None,
            profile,
            version: 1,
            disabled: false,
            created_at: Time(0),
            cut: Cut::default(),
        }
    }

    #[test]
    fn no_client_leaves_out_others() {
        let many = |name: &str| (0..33).map(|n| format!("{name}{n}")).collect::<Vec<_>>();
        let same = vec![String::from("same"); 33];
        let all = [many("a"), many("b"), same.clone(), vec!["c0".into()], same, Vec::new()];
        let shown = frames(&all, 50);
        assert_eq!(shown[..5], ["a0", "b0", "same", "c0", "a1"]);
        assert_eq!((shown.len(), shown.iter().filter(|frame| *frame == "same").count()), (50, 1));
        assert_eq!(frames(&all, 3).len(), 3);
        assert!(frames(&[], 50).is_empty());
    }

    #[test]
    fn only_what_is_registered_is_a_place_to_go() {
        let client = client();
        let place = |uri| place_after(Some(&client), Some(uri), None);
        assert_eq!(place("https://rp.example/bye").as_deref(), Some("https://rp.example/bye"));
        for evil in [
            "https://rp.example/bye/",
            "https://rp.example/BYE",
            "https://rp.example/bye?b=1",
            "https://rp.example/bye#x",
            "https://rp.example@evil.example/bye",
            "https://evil.example/bye",
            "//evil.example",
            "",
        ] {
            assert_eq!(place(evil), None, "{evil}");
        }
        let with = |uri, state| place_after(Some(&client), Some(uri), Some(state));
        assert_eq!(
            with("https://rp.example/bye", "a&b=ü").as_deref(),
            Some("https://rp.example/bye?state=a%26b%3D%C3%BC")
        );
        assert_eq!(with("https://rp.example/bye?a=1", "s").as_deref(), Some("https://rp.example/bye?a=1&state=s"));
        assert_eq!(place_after(None, Some("https://rp.example/bye"), None), None);
        assert_eq!(place_after(Some(&client), None, None), None);
        let off = Client { disabled: true, ..client };
        assert_eq!(place_after(Some(&off), Some("https://rp.example/bye"), None), None);
    }

    #[test]
    fn frames_say_which_session_when_they_must() {
        let mut client = client();
        let sid = SessionId::from_bits(5);
        assert_eq!(frame(&client, "https://id.example", sid).as_deref(), Some("https://rp.example/front?x=1"));
        client.profile.frontchannel_logout_session_required = true;
        let expected = format!("https://rp.example/front?x=1&iss=https%3A%2F%2Fid.example&sid={sid}");
        assert_eq!(frame(&client, "https://id.example", sid), Some(expected));
        client.disabled = true;
        assert_eq!(frame(&client, "https://id.example", sid), None);
    }

    #[test]
    fn a_logout_token_says_what_the_specification_wants() {
        let sid = SessionId::from_bits(5);
        let made = claims(
            "https://id.example",
            "acc_1".into(),
            ClientId::from_bits(3),
            sid,
            Time(90_500),
            TokenId::from_bits(7),
        );
        let json = serde_json::to_value(&made).unwrap();
        assert_eq!(json["events"], serde_json::json!({ EVENT: {} }));
        assert_eq!((json["iat"].as_i64(), json["exp"].as_i64()), (Some(90), Some(90 + LIFE_S)));
        assert_eq!(json["sid"], sid.to_string());
        assert!(json.get("nonce").is_none());
    }
}
