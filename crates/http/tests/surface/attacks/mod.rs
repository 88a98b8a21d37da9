//! The attacks of RFC 9700 (and of RFC 8725 on signed tokens), each by its name. What is tried elsewhere is named here, so that
//! the list is whole; `docs/conformance.md` maps each clause to its test.
//!
//! | attack | test |
//! |---|---|
//! | mix-up (§4.4) | `flows::mix_up`; as a client of another provider `oauth::upstream::an_answer_of_another_provider_is_not_taken` |
//! | authorization code injection (§4.5) | `flows::authorization_code_injection` |
//! | PKCE downgrade (§4.8) | `flows::pkce_downgrade` |
//! | insufficient redirect URI validation (§4.1) | `redirects::redirect_uri_tricks`, `redirects::redirect_uris_that_nobody_may_register` |
//! | open redirection (§4.11) | `redirects::open_redirects_of_every_page`; at logout also `oauth::logout::nothing_leads_to_an_address_that_is_not_registered` |
//! | 307 redirect (§4.12) | `redirects::no_redirect_sends_credentials_on` |
//! | cross-site request forgery (§4.7) | `forms::csrf_on_every_form` |
//! | clickjacking (§4.16) | `forms::clickjacking_of_every_page` |
//! | leaks by the referrer, the history and caches (§4.2, §4.3) | `forms::nothing_leaks_by_referrer_history_or_cache` |
//! | access token injection, confused types (§4.6; RFC 8725 §2.8) | `tokens::nothing_is_taken_for_something_else` |
//! | misuse of tokens meant for others (§4.9, §4.10) | `tokens::a_token_for_another_resource_is_refused`, `oauth::dpop::tokens_are_bound_to_the_key_that_was_proven` |
//! | algorithm confusion (RFC 8725 §2.1) | `tokens::algorithm_confusion`; of clients' keys `oauth::assertion::wrong_assertions_are_refused`, `oauth::dpop::wrong_dpop_proofs_are_refused`; of another provider's `oauth::upstream::signatures_are_by_the_issuers_keys_and_their_own_algorithm` |
//! | replayed proofs (RFC 9449 §11.1) | `oauth::dpop::replayed_dpop_proofs_are_refused_and_end_nothing`; at two nodes `app/operations: nodes::a_dpop_proof_counts_at_one_node_only` |
//! | refresh token replay (§4.14) | `flows::refresh_token_replay` |
//! | client impersonation (OAuth 2.1 §7.3) | `flows::client_impersonation`, `oauth::clients::who_a_client_is_is_said_in_one_way` |
//! | a client impersonating a resource owner (§4.15) | `flows::a_client_as_resource_owner` |
//! | repeated parameters (RFC 6749 §3.1, §3.2) | `limits::repeated_parameters_at_every_endpoint` |
//! | oversized everything | `limits::oversized_everything`, `bad_input::heads_have_a_limit` |
//! | server-side request forgery | `oauth::ssrf`, `oauth::outbox::private_addresses_are_not_called` |
//! | an account taken over by an unverified address | `oauth::upstream::an_unverified_address_opens_nothing` |
mod flows;
mod forms;
mod limits;
mod redirects;
mod tokens;

use http::Method;
use portcullis_testkit::client::Call;
use portcullis_testkit::{Answer, TestServer};
use serde_json::Value;

const ADA: &str = "ada@example.test";
const SESSION: &str = "__Host-portcullis_session";

/// An operation as `/openapi.json` tells it. The document lists exactly the routes (a test of the crate sees to that), so a test
/// that goes through it forgets none.
struct Operation {
    method: Method,
    /// With every placeholder filled in.
    path: String,
    said: Value,
}

impl Operation {
    /// Whether it belongs to a page: HTML for a browser, by cookie.
    fn is_of_a_page(&self) -> bool {
        let tagged = self.said["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "pages"));
        let by_cookie =
            self.said["security"].as_array().is_some_and(|all| all.iter().any(|one| one.get("page").is_some()));
        tagged || by_cookie
    }
}

/// Every operation of the server.
async fn operations(server: &TestServer) -> Vec<Operation> {
    let document = server.client.get("/openapi.json").send().await.expect(200).json();
    let mut found = vec![];
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, said) in operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let method: Method = method.to_uppercase().parse().unwrap();
            let filled = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
            found.push(Operation { method, path: filled.collect::<Vec<_>>().join("/"), said: said.clone() });
        }
    }
    assert!(found.len() > 80, "{}", found.len());
    found
}

fn with_cookie(call: Call, cookie: &str) -> Call {
    call.header("cookie", format!("{SESSION}={cookie}"))
}

/// A form of a page of ours, sent by that page.
async fn post(server: &TestServer, cookie: &str, path: &str, form: &str) -> Answer {
    with_cookie(server.client.post(path), cookie).header("origin", &server.issuer).form(form).send().await
}

/// The value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).expect("a hidden field");
    value.split('"').next().unwrap().replace("&amp;", "&").replace("&#x2f;", "/")
}

/// The claims of a token.
fn claims(token: &Value) -> Value {
    let body = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&portcullis_wire::b64::decode(body).unwrap()).unwrap()
}
