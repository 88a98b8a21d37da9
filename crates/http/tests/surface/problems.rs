//! Every code of this surface can be met, and each is met somewhere in these tests.
use portcullis_wire::Code;

#[test]
fn every_code_is_expected_somewhere() {
    let sources = [
        include_str!("accounts.rs"),
        include_str!("admin/accounts.rs"),
        include_str!("admin/clients.rs"),
        include_str!("admin/revocations.rs"),
        include_str!("admin/who.rs"),
        include_str!("bad_input.rs"),
        include_str!("cookies.rs"),
        include_str!("email.rs"),
        include_str!("faults.rs"),
        include_str!("feed.rs"),
        include_str!("me.rs"),
        include_str!("oauth/dpop.rs"),
        include_str!("sessions.rs"),
    ];
    // Of a verifier, of a page alone, or of factors that are not there yet; `conflict` and `overloaded` have tests of their own kind.
    let elsewhere = [Code::NotFresh, Code::SecondFactorRequired, Code::StepUpRequired, Code::EmailNotVerified];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        let expected = format!("expect_problem(\"{code}\")");
        assert!(sources.iter().any(|source| source.contains(&expected)), "no test expects {code}");
    }
}
