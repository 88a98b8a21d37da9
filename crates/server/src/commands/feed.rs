//! `portcullis feed`: who follows the feed, and how far behind each is.
use super::accounts::{items, more, query, show};
use super::relay;
use super::remote::{Remote, block_on, cell};
use crate::cli::Page;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::{FeedAct, FeedArgs};
use crate::cli::table::render;
use http::Method;
use serde_json::Value;

/// The most that the server shows at once.
const MOST_OF_A_PAGE: u32 = 200;

/// Lists the running copies of verifiers.
pub fn run(args: &FeedArgs) -> Outcome {
    if let Some(FeedAct::Relay(relay)) = &args.act {
        return relay::run(relay, &args.reach);
    }
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let path = format!("/v1/admin/verifiers?{}", query(&args.page));
        let listed = remote.call(Method::GET, &path, None).await?;
        show(args.reach.json, &listed, || table(&listed));
        let late = args.check && is_anybody_late(&mut remote, args, listed).await?;
        Ok(if late { Exit::CheckFailed } else { Exit::Done })
    })
}

/// Whether somebody on any page is late, or a node silent, whichever part of the list is shown.
async fn is_anybody_late(remote: &mut Remote, args: &FeedArgs, shown: Value) -> Result<bool, Failure> {
    let mut page = match args.page.cursor {
        None => shown,
        Some(_) => remote.call(Method::GET, &page_after(None), None).await?,
    };
    loop {
        if items(&page, "verifiers").any(is_late) || silent(&page).is_some() {
            return Ok(true);
        }
        let Some(next) = page.get("next").and_then(Value::as_str) else { return Ok(false) };
        page = remote.call(Method::GET, &page_after(Some(next.to_owned())), None).await?;
    }
}

/// The largest page there is, after this.
fn page_after(cursor: Option<String>) -> String {
    format!("/v1/admin/verifiers?{}", query(&Page { limit: MOST_OF_A_PAGE, cursor }))
}

fn table(listed: &Value) -> String {
    let row = |one: &Value| {
        let heard = one.get("heard_ms_ago").and_then(Value::as_u64).map_or(String::new(), |ms| format!("{ms} ms ago"));
        let member = |name| cell(one, name);
        vec![
            member("name"),
            member("id"),
            state(one).into(),
            member("policy"),
            member("applied"),
            member("behind"),
            heard,
        ]
    };
    let rows: Vec<_> = items(listed, "verifiers").map(row).collect();
    let heads = ["NAME", "ID", "STATE", "POLICY", "APPLIED", "BEHIND", "HEARD"];
    let head = cell(listed, "head");
    let told = silent(listed).map_or(String::new(), |nodes| {
        format!("\nno answer from {nodes}: who hangs there is shown by what the database knows")
    });
    match rows.is_empty() {
        true => format!("nobody follows the feed; the log is at rev {head}{told}"),
        false => format!("{}\nthe log is at rev {head}{}{told}", render(&heads, &rows), more(listed)),
    }
}

/// The nodes that did not answer, unless all did.
pub(super) fn silent(listed: &Value) -> Option<String> {
    let nodes: Vec<_> = items(listed, "silent_nodes").filter_map(Value::as_str).collect();
    (!nodes.is_empty()).then(|| nodes.join(", "))
}

/// In one word. `away` still holds a lease: until that ends it must be waited for.
fn state(one: &Value) -> &'static str {
    let is = |member: &str| one.get(member).and_then(Value::as_bool).unwrap_or(false);
    match (is("connected"), is("leased")) {
        (true, true) => "fresh",
        (true, false) => "connecting",
        (false, true) => "away",
        (false, false) => "gone",
    }
}

/// Whether one that may still accept tokens does not know all that is committed. Whoever holds no lease accepts nothing.
pub(super) fn is_late(one: &Value) -> bool {
    let behind = one.get("behind").and_then(Value::as_u64);
    match state(one) {
        "fresh" => behind != Some(0),
        state => state == "away",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_silent_is_named() {
        let of = |nodes: Value| silent(&json!({ "verifiers": [], "head": 3, "silent_nodes": nodes }));
        assert_eq!(of(json!(["nod_a", "nod_b"])).as_deref(), Some("nod_a, nod_b"));
        assert_eq!((of(json!([])), silent(&json!({ "verifiers": [] }))), (None, None));
        let shown = table(&json!({ "verifiers": [], "head": 3, "silent_nodes": ["nod_a"] }));
        assert!(shown.contains("no answer from nod_a"), "{shown}");
    }

    #[test]
    fn who_is_late() {
        let one = |connected, leased, behind: Option<u64>| {
            is_late(&json!({ "connected": connected, "leased": leased, "behind": behind }))
        };
        assert!(!one(true, true, Some(0)) && one(true, true, Some(1)) && one(true, true, None));
        assert!(one(false, true, Some(0)) && !one(false, false, Some(9)) && !one(true, false, None));
    }
}
