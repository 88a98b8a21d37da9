//! The same service, which judges the token that it is told: the verifier's core with all that it needs.
#![allow(clippy::print_stdout, reason = "a measurement")]
use portcullis_feed::{Knowledge, Mono, Policy, RevokedSet, Subscriber, subscriber};
use portcullis_verify::{Expect, Holder, View, judge};
use portcullis_wire::Time;

fn main() {
    let said: Vec<String> = std::env::args().skip(1).collect();
    let subscriber = Subscriber::new(subscriber::Config { bound_ms: None, log: None, set_limit: 1000, relays: false });
    let mut known = Knowledge::nothing(RevokedSet::with_limit(1000));
    known.keys = std::sync::Arc::new(serde_json::from_str(&said.join(" ")).unwrap_or_default());
    known.set = subscriber.knowledge().set.clone();
    let expect = Expect { issuer: String::new(), audience: String::new() };
    let view = View::new(known);
    let token = said.first().map_or("", String::as_str);
    let verdict = judge(&view, token, &Holder::Bearer, &expect, Policy::Closed, Mono(0), Time(0));
    println!("{} {} {verdict:?}", said.len(), said.join(" "));
}
