//! The outbox on two nodes: the one that sends is killed in the middle, and the other takes over.
use crate::nodes::Node;
use crate::support::{ADMIN, ISSUER};
use portcullis_testkit::application::{REDIRECT, VERIFIER, encode, request};
use portcullis_testkit::{Application, Client, Cluster, Receiver, parameter};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const PASSWORD: &str = "a good long password";
const PEOPLE: usize = 12;
/// A claim of a dead node lapses after a minute; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&portcullis_tower::wire::b64::decode(payload).unwrap()).unwrap()
}

async fn admin(at: &Client) -> String {
    let body = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
    let answer = at.post("/v1/sessions").json(&body).send().await.expect(201).json();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// An application that wants to be told.
async fn application(at: &Client, receiver: &Receiver) -> Application {
    let body = json!({
        "name": "Told", "kind": "confidential", "redirect_uris": [REDIRECT], "consent": "implied", "scopes": ["openid", "read"],
        "backchannel_logout_uri": format!("{}/logout", receiver.base),
    });
    let made = at.post("/v1/admin/clients").bearer(&admin(at).await).json(&body).send().await.expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Application { id: text("client_id"), secret: text("client_secret") }
}

/// Somebody new signs a browser in, and in to the application. Their cookie, and the session that it is told of.
async fn person(at: &Client, app: &Application, n: usize) -> (String, String) {
    let email = format!("p{n}@example.test");
    at.post("/v1/accounts").json(&json!({ "email": email, "password": PASSWORD })).send().await.expect(201);
    let form = encode(&[("identifier", &email), ("password", PASSWORD)]);
    let answer = at.post("/sign-in").header("origin", ISSUER).form(&form).send().await.expect(303);
    let cookie = format!("__Host-portcullis_session={}", answer.cookie("__Host-portcullis_session").unwrap());
    let path = format!("/oauth2/authorize?{}", request(app, &[("scope", "openid")]));
    let answer = at.get(path).header("cookie", &cookie).send().await.expect(303);
    let code = parameter(answer.header("location"), "code").unwrap();
    let form = encode(&[
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ]);
    let tokens = at.post("/oauth2/token").basic((&app.id, &app.secret)).form(&form).send().await.expect(200).json();
    (cookie, claims(tokens["id_token"].as_str().unwrap())["sid"].as_str().unwrap().to_owned())
}

/// How many messages a node has sent.
async fn sent(at: &Client) -> u64 {
    let metrics = at.get("/metrics").send().await.expect(200).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("portcullis_messages_sent_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_while_it_sends_loses_no_message() {
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let mut nodes = Node::started(&cluster, &url, 2, &["--outgoing-private", "127.0.0.0/8"]).await;
    let at: Vec<Client> = nodes.iter().map(|node| Client::new(format!("http://{}", node.at))).collect();
    let receiver = Receiver::start().await;
    let app = application(&at[0], &receiver).await;
    let mut people = vec![];
    for n in 0..=PEOPLE {
        people.push(person(&at[n % 2], &app, n).await);
    }
    // One leaves first: whoever tells of that is the one that sends.
    let (cookie, first) = people.pop().unwrap();
    at[0].post("/sign-out").header("origin", ISSUER).header("cookie", &cookie).form("").send().await.expect(303);
    receiver.wait_for(1).await;
    let sends = 'found: loop {
        for (n, node) in at.iter().enumerate() {
            if sent(node).await == 1 {
                break 'found n;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Everyone, at the other node. Some calls are under way, and their answers not written down, when the sender dies.
    let (living, slow) = (&at[1 - sends], Duration::from_millis(700));
    receiver.slow(slow);
    let everyone = json!({ "everyone": true, "reason": "a test" });
    living.post("/v1/admin/revocations").bearer(&admin(living).await).json(&everyone).send().await.expect(200);
    receiver.wait_for(1 + 6).await;
    nodes[sends].end(Signal::KILL).await;
    let before = receiver.bodies().len();
    assert!(before < 1 + PEOPLE, "it was killed when all was sent");
    receiver.slow(Duration::ZERO);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let token = admin(living).await;
        let page = living.get("/v1/admin/messages?state=waiting").bearer(&token).send().await.expect(200).json();
        let done = living.get("/v1/admin/messages?state=done").bearer(&token).send().await.expect(200).json();
        let count = |page: &Value| page["messages"].as_array().unwrap().len();
        if count(&done) == 1 + PEOPLE && count(&page) == 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{page} {}", nodes[1 - sends].log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Each session's end has arrived; what came twice says that it is the same, and nothing else does.
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let bodies = receiver.bodies();
    for body in &bodies {
        let claims = claims(body.strip_prefix("logout_token=").unwrap());
        let text = |name: &str| claims[name].as_str().unwrap().to_owned();
        told.entry(text("sid")).or_default().push(text("jti"));
    }
    let mut expected: Vec<String> = people.into_iter().map(|(_, sid)| sid).chain([first]).collect();
    expected.sort();
    assert_eq!(told.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(told.values().all(|ids| ids.iter().all(|id| *id == ids[0])), "{told:?}");
    let ids: std::collections::BTreeSet<&String> = told.values().flatten().collect();
    assert_eq!(ids.len(), told.len(), "{told:?}");
    // What the dead node had under way came again: it was killed in the middle.
    assert!(bodies.len() > told.len() && sent(living).await > 0, "{} of {}", bodies.len(), told.len());
}
