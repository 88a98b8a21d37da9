//! What `dev` prints: where things are, and a tour to copy and paste. A test runs the commands as they stand here.
use super::{Place, url};
use crate::cli::out::Paint;

/// The whole text.
pub fn text(place: &Place) -> String {
    let paint = Paint::stdout();
    let (server, api) = (url(&place.server), url(&place.api));
    let head = |text: &str| paint.bold(text);
    let mut lines = vec![
        head("Portcullis is running on this machine, for you to try."),
        String::new(),
        format!("  server     {server}    (pages: {server}/sign-in, {server}/account/devices)"),
        format!("  demo API   {api}    (verifies tokens offline)"),
        format!("  mails      {}    (what is sent is caught here)", url(&place.mails)),
        format!("  data       {}", place.data.display()),
        String::new(),
    ];
    for (name, person) in [("account", &place.account), ("bystander", &place.bystander), ("admin", &place.admin)] {
        lines.push(format!("  {name:<9}  {:<29} {}", person.email, person.password));
    }
    lines.push(format!("  verifier   {}  {}", place.client_id, place.client_secret));
    lines.extend([String::new(), head("Copy and paste into another terminal:")]);
    for (comment, command) in commands(place) {
        lines.extend([String::new(), paint.dim(&format!("# {comment}")), command]);
    }
    lines.extend([
        String::new(),
        format!("The whole story, measured: {}", head("portcullis dev --tour")),
        "Ctrl-C ends it.".into(),
    ]);
    lines.join("\n")
}

/// The commands of the tour, each with what it shows.
fn commands(place: &Place) -> Vec<(&'static str, String)> {
    let (server, api) = (url(&place.server), url(&place.api));
    let sign_in = |device: &str| {
        let (email, password) = (place.account.email, place.account.password);
        let body = format!("{{\"identifier\":\"{email}\",\"password\":\"{password}\",\"device_name\":\"{device}\"}}");
        format!(
            "{}=$(curl -s {server}/v1/sessions -H 'Content-Type: application/json' -d '{body}' \\\n  \
             | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')",
            device.to_uppercase()
        )
    };
    let as_device = |device: &str| format!("-H \"Authorization: Bearer ${}\"", device.to_uppercase());
    vec![
        ("sign in on two devices", format!("{}\n{}", sign_in("laptop"), sign_in("phone"))),
        (
            "the demo API accepts both, without asking the server",
            format!(
                "curl -s {api}/whoami {}; echo\ncurl -s {api}/whoami {}; echo",
                as_device("laptop"),
                as_device("phone")
            ),
        ),
        ("your devices", format!("curl -s {server}/v1/me/sessions {}; echo", as_device("laptop"))),
        (
            "log out everywhere; answered when it is true at every verifier",
            format!("curl -s -X DELETE '{server}/v1/me/sessions?wait=enforced' {}; echo", as_device("laptop")),
        ),
        (
            "both are refused: token_revoked",
            format!(
                "curl -s {api}/whoami {}; echo\ncurl -s {api}/whoami {}; echo",
                as_device("laptop"),
                as_device("phone")
            ),
        ),
    ]
}
