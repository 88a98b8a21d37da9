//! Strict JSON: what `serde_json` accepts, less objects that give a member twice. Two readers of one token must not see two
//! values (RFC 7519 §4, RFC 8725 §2.4), so the second one is refused rather than preferred.
use alloc::{borrow::Cow, string::String, vec::Vec};
use core::fmt;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Reads `T` from UTF-8 JSON in which no object, at any depth, has the same member twice.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    // Once for all texts in it, in place of each by itself and twice.
    let text = core::str::from_utf8(bytes).map_err(serde::de::Error::custom)?;
    let mut check = serde_json::Deserializer::from_str(text);
    NoTwice.deserialize(&mut check)?;
    check.end()?;
    serde_json::from_str(text)
}

struct NoTwice;

impl<'de> DeserializeSeed<'de> for NoTwice {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

macro_rules! scalar {
    ($($method:ident($t:ty)),*) => {$(
        fn $method<E>(self, _: $t) -> Result<(), E> { Ok(()) }
    )*};
}

impl<'de> Visitor<'de> for NoTwice {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    scalar!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(NoTwice)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<Cow<'de, str>> = Vec::with_capacity(USUAL_MEMBERS);
        // One bit for what names look like at a glance: one that looks like none before it is none of them.
        let mut glances = 0_u64;
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let last = name.as_bytes().last().copied().map_or(0, usize::from);
            let glance = 1 << ((last * 7 + name.len()) % 64);
            if glances & glance != 0 && seen.contains(&name) {
                return Err(serde::de::Error::custom("a member is given twice"));
            }
            if seen.len() >= MAX_MEMBERS {
                return Err(serde::de::Error::custom("an object has too many members"));
            }
            glances |= glance;
            seen.push(name);
            map.next_value_seed(NoTwice)?;
        }
        Ok(())
    }
}

/// A member's name where it stands, or, when it is written with escapes, what it means.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(name.into()))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(String::from(name).into()))
            }
        }
        d.deserialize_str(Borrowed)
    }
}

/// The members of the claims of a token, about.
const USUAL_MEMBERS: usize = 20;

/// The members that one object may have; bounds the quadratic look for repetitions.
const MAX_MEMBERS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn twice_is_refused_at_any_depth() {
        assert!(from_slice::<Value>(br#"{"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]}"#).is_ok());
        for wrong in [
            &br#"{"a":1,"a":1}"#[..],
            br#"{"b":{"a":1,"a":2}}"#,
            br#"[{"a":1,"\u0061":2}]"#,
            br#"{"a":1} x"#,
            b"\xff",
            b"",
        ] {
            assert!(from_slice::<Value>(wrong).is_err());
        }
    }
}
