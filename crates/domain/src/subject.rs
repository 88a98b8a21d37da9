//! By which name a client knows a user (OpenID Connect Core §8): the account's id, or a name that only the clients of one sector share.
//!
//! A pairwise name is derived from the sector and the account under a key that is made once ([`crate::keys`]): it is the same in
//! every ID token for ever, and two sectors that lay their names side by side learn nothing. It stands in ID tokens, userinfo and logout tokens.
//! Access tokens never have it: an end is matched by what stands in them (DESIGN §4.9). What a client was registered as stays, for
//! another name is another user.
use crate::Refused;
use crate::client::{self, Profile, SubjectType};
use crate::family::MacKey;
use crate::model::Client;
use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use portcullis_wire::{AccountId, ClientId, b64};

/// The longest document about a sector, in bytes.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// What pairwise names begin with: no account's id does.
const PREFIX: &str = "sub_";

/// Which clients know users by the same names (OpenID Connect Core §8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sector<'a> {
    /// All of one host.
    Host(&'a str),
    /// One client: its addresses are on its users' own devices, so no host says whose it is.
    Own(ClientId),
}

/// The host that a profile is of: that of `sector_identifier_uri`, else the one of its redirect URIs.
fn host(profile: &Profile) -> Result<Option<&str>, Refused> {
    if let Some(uri) = &profile.sector_identifier_uri {
        return Ok(client::host_of(uri));
    }
    let mut hosts = profile.redirect_uris.iter().map(|uri| client::web_host_of(uri));
    let first = hosts.next().flatten();
    match hosts.all(|host| host == first) {
        true => Ok(first),
        false => Err(wrong(
            "sector_identifier_uri",
            "is needed for pairwise subjects when the redirect URIs have several hosts (OpenID Connect Core §8.1)",
        )),
    }
}

/// The sector of a client; `None` when it knows users by their public names.
///
/// # Errors
/// When its addresses are of several hosts and none is the sector's.
pub fn sector(id: ClientId, profile: &Profile) -> Result<Option<Sector<'_>>, Refused> {
    match profile.subject_type {
        SubjectType::Public => Ok(None),
        SubjectType::Pairwise => host(profile).map(|host| Some(host.map_or(Sector::Own(id), Sector::Host))),
    }
}

/// What a registration must have for its `subject_type`.
pub(crate) fn check(profile: &Profile) -> Result<(), Refused> {
    if profile.subject_type == SubjectType::Pairwise || profile.sector_identifier_uri.is_some() {
        host(profile)?;
    }
    if profile.subject_type == SubjectType::Pairwise && profile.global_token_revocation {
        return Err(wrong("subject_type", "must be public for global_token_revocation, which names accounts"));
    }
    Ok(())
}

/// The name of an account in a sector: 128 bits that nobody without the key can tell from others.
pub fn pairwise(key: &MacKey, sector: Sector<'_>, account: AccountId) -> String {
    let own;
    let (kind, sector): (&[u8], &[u8]) = match sector {
        Sector::Host(host) => (b"h", host.as_bytes()),
        Sector::Own(id) => {
            own = id.bits().to_be_bytes();
            (b"c", &own)
        }
    };
    // What is last has a fixed length, so no two pairs read alike.
    let tag = key.tag(b"pairwise subject", &[kind, sector, &account.bits().to_be_bytes()]);
    format!("{PREFIX}{}", b64::encode(&tag))
}

/// By which name `client` knows `account`; `None` when that takes the key and it is not there. The client's own account is no user,
/// and is named as it is.
pub fn name(client: &Client, account: AccountId, key: Option<&MacKey>) -> Option<String> {
    // What was registered has one sector; should a row say otherwise, it gets a name that nobody shares.
    let sector = sector(client.id, &client.profile).unwrap_or(Some(Sector::Own(client.id)));
    match sector.filter(|_| client.profile.service_account != Some(account)) {
        None => Some(account.to_string()),
        Some(sector) => key.map(|key| pairwise(key, sector, account)),
    }
}

/// Whether `said`, which `client` shows us, names `account`: by the name that it knows, or by the public one, which other clients
/// know. A name of another sector means nobody here.
pub fn means(said: &str, client: &Client, account: AccountId, key: Option<&MacKey>) -> bool {
    said == account.to_string() || name(client, account, key).as_deref() == Some(said)
}

/// Whether a change leaves a client's users the names that they have.
///
/// # Errors
/// [`Refused::InvalidValue`]: as somebody else's user they would come back. Another client is registered instead.
pub fn stays(before: &Client, next: &Profile) -> Result<(), Refused> {
    if before.profile.subject_type != next.subject_type {
        let detail = "stays as it was registered, since every user would get another name: register another client";
        return Err(wrong("subject_type", detail));
    }
    if sector(before.id, &before.profile).ok() == sector(before.id, next).ok() {
        return Ok(());
    }
    Err(wrong(
        "sector_identifier_uri",
        "the host of the sector stays, since every user would get another name: give a sector_identifier_uri on the host of \
         before, or register another client",
    ))
}

/// Whether the document at `sector_identifier_uri` must be looked at before a client is registered like this.
pub fn must_vet(before: Option<&Profile>, next: &Profile) -> bool {
    let of = |profile: &Profile| (profile.sector_identifier_uri.clone(), profile.redirect_uris.clone());
    next.sector_identifier_uri.is_some() && before.is_none_or(|before| of(before) != of(next))
}

/// The verdict about that document: a JSON array that lists every redirect URI (OpenID Connect Registration §5). So nobody joins a
/// sector that does not name them.
///
/// # Errors
/// [`Refused::InvalidValue`], without a word of the document: it may be of a place that the caller cannot see.
pub fn vet(document: &[u8], profile: &Profile) -> Result<(), Refused> {
    let listed: Vec<String> = portcullis_wire::json::from_slice(document)
        .map_err(|_| wrong("sector_identifier_uri", "what is there is no JSON array of addresses"))?;
    match profile.redirect_uris.iter().find(|uri| !listed.contains(uri)) {
        None => Ok(()),
        Some(missing) => Err(wrong(
            "sector_identifier_uri",
            &format!("what is there does not list {missing:?} of the redirect URIs"),
        )),
    }
}

fn wrong(field: &'static str, detail: &str) -> Refused {
    Refused::InvalidValue { field, detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;
    use crate::model::ClientKind;
    use alloc::{borrow::ToOwned as _, vec};
    use portcullis_wire::{KeyId, SecretBytes, Time};

    fn key(n: u8) -> MacKey {
        MacKey::new(KeyId(1), &SecretBytes::new([n; 32]))
    }

    fn client(id: u128, uris: &[&str], sector: Option<&str>) -> Client {
        let profile = Profile {
            redirect_uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            subject_type: SubjectType::Pairwise,
            sector_identifier_uri: sector.map(str::to_owned),
            ..Profile::default()
        };
        Client {
            id: ClientId::from_bits(id),
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

    const ADA: AccountId = AccountId::from_bits(7);

    fn called(client: &Client) -> String {
        name(client, ADA, Some(&key(1))).unwrap()
    }

    #[test]
    fn a_sector_is_a_host() {
        let a = client(1, &["https://a.example/cb", "https://a.example:8443/other"], None);
        let same = client(2, &["https://a.example/else"], None);
        let other = client(3, &["https://b.example/cb"], None);
        let joined = client(4, &["https://c.example/cb", "https://d.example/cb"], Some("https://a.example/all.json"));
        assert_eq!(called(&a), called(&same));
        assert_eq!(called(&a), called(&joined));
        assert_ne!(called(&a), called(&other));
        // On a device no host says whose it is: such clients share with nobody.
        let native = client(5, &["http://127.0.0.1/cb", "com.example.app:/cb"], None);
        let another = client(6, &["http://127.0.0.1/cb"], None);
        assert_eq!(sector(native.id, &native.profile), Ok(Some(Sector::Own(native.id))));
        assert_ne!(called(&native), called(&another));
        for several in [
            &["https://a.example/cb", "https://b.example/cb"][..],
            &["https://a.example/cb", "http://127.0.0.1/cb"],
            &["com.example.app:/cb", "https://a.example/cb"],
        ] {
            let refused = client(7, several, None).profile.checked(ClientKind::Public, 300);
            assert!(
                matches!(refused, Err(Refused::InvalidValue { field: "sector_identifier_uri", .. })),
                "{several:?}"
            );
            assert!(
                client(7, several, Some("https://a.example/all.json")).profile.checked(ClientKind::Public, 300).is_ok()
            );
        }
    }

    #[test]
    fn a_name_is_its_sectors_alone_and_stays() {
        let a = client(1, &["https://a.example/cb"], None);
        // Kept for good: a change here would make every user a stranger to every client.
        assert_eq!(pairwise(&key(1), Sector::Host("a.example"), ADA), "sub_Y30Md9x269mK8-OTza9ZPw");
        assert_eq!(pairwise(&key(1), Sector::Own(ClientId::from_bits(5)), ADA), "sub_ZbpWmw0HGSQo9pF8iEA0Vg");
        assert_eq!(called(&a), "sub_Y30Md9x269mK8-OTza9ZPw");
        assert!(called(&a).parse::<AccountId>().is_err());
        assert_ne!(name(&a, AccountId::from_bits(8), Some(&key(1))), Some(called(&a)));
        assert_ne!(name(&a, ADA, Some(&key(2))), Some(called(&a)));
        assert_eq!(name(&a, ADA, None), None, "no name rather than the public one");
        // Hosts and ids are kept apart, whatever their bytes.
        let id = ClientId::from_bits(u128::from_be_bytes(*b"a.example.longer"));
        let (host, own) = (Sector::Host("a.example.longer"), Sector::Own(id));
        assert_ne!(pairwise(&key(1), host, ADA), pairwise(&key(1), own, ADA));
        // Its own account is no user.
        let mut machine = a.clone();
        machine.profile.service_account = Some(ADA);
        assert_eq!(called(&machine), ADA.to_string());
        let mut public = a;
        public.profile.subject_type = SubjectType::Public;
        assert_eq!(name(&public, ADA, None), Some(ADA.to_string()));
    }

    #[test]
    fn a_hint_means_whom_its_client_knows() {
        let (a, b) = (client(1, &["https://a.example/cb"], None), client(2, &["https://b.example/cb"], None));
        let k = key(1);
        assert!(means(&called(&a), &a, ADA, Some(&k)) && means(&ADA.to_string(), &a, ADA, Some(&k)));
        assert!(!means(&called(&b), &a, ADA, Some(&k)), "another sector's name means nobody here");
        assert!(!means(&called(&a), &a, AccountId::from_bits(8), Some(&k)) && !means("", &a, ADA, None));
    }

    #[test]
    fn names_stay_when_a_client_is_changed() {
        let a = client(1, &["https://a.example/cb"], None);
        let field = |next: &Client| match stays(&a, &next.profile) {
            Err(Refused::InvalidValue { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let mut public = a.clone();
        public.profile.subject_type = SubjectType::Public;
        assert_eq!(field(&public), "subject_type");
        assert!(stays(&public, &a.profile).is_err());
        assert_eq!(field(&client(1, &["https://b.example/cb"], None)), "sector_identifier_uri");
        assert_eq!(
            field(&client(1, &["https://a.example/cb"], Some("https://b.example/all.json"))),
            "sector_identifier_uri"
        );
        // The way to another host: a document on the old one lists it.
        let moved = client(1, &["https://b.example/cb"], Some("https://a.example/all.json"));
        assert_eq!(stays(&a, &moved.profile), Ok(()));
        assert_eq!(stays(&a, &client(1, &["https://a.example/other"], None).profile), Ok(()));
        // Who is public may move as it likes.
        let mut elsewhere = public.clone();
        elsewhere.profile.redirect_uris = vec!["https://z.example/".into()];
        assert_eq!(stays(&public, &elsewhere.profile), Ok(()));
    }

    #[test]
    fn a_document_lists_every_address() {
        let profile = client(1, &["https://a.example/cb", "https://b.example/cb"], Some("https://s.example/x")).profile;
        let all = br#"["https://c.example/", "https://b.example/cb", "https://a.example/cb"]"#;
        assert_eq!(vet(all, &profile), Ok(()));
        for bad in [
            &br#"["https://a.example/cb"]"#[..],
            br#"["https://a.example/cb", "https://b.example/cb/"]"#,
            br#"["https://a.example/cb", "https://B.example/cb"]"#,
            br#"{"redirect_uris": ["https://a.example/cb", "https://b.example/cb"]}"#,
            br#"["https://a.example/cb", "https://b.example/cb", 7]"#,
            br#""https://a.example/cb https://b.example/cb""#,
            b"secret of a machine",
            b"",
        ] {
            let refused = vet(bad, &profile).unwrap_err();
            assert!(
                matches!(&refused, Refused::InvalidValue { field: "sector_identifier_uri", detail } if !detail.contains("secret"))
            );
        }
        assert!(must_vet(None, &profile) && !must_vet(Some(&profile), &profile));
        let fewer = Profile { redirect_uris: vec!["https://a.example/cb".into()], ..profile.clone() };
        assert!(must_vet(Some(&fewer), &profile) && must_vet(Some(&profile), &fewer));
        let public = Profile { subject_type: SubjectType::Public, ..profile.clone() };
        assert!(must_vet(None, &public), "a document that is named must be true, whoever uses it");
        assert!(!must_vet(None, &Profile { sector_identifier_uri: None, ..profile }));
    }
}
