use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that answers each connection with these bytes; what it was sent, and how often.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

async fn receiver(answer: &'static str, wait: Duration) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (got, connections) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicUsize::new(0)));
    let (heard, counted) = (got.clone(), connections.clone());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let read = tcp.read(&mut bytes).await.unwrap_or(0);
                heard.lock().unwrap().push(String::from_utf8_lossy(&bytes[..read]).into_owned());
                tokio::time::sleep(wait).await;
                let _ = tcp.write_all(answer.as_bytes()).await;
            });
        }
    });
    Receiver { port, got, connections }
}

/// Names that lead where the test says, another way each time.
#[derive(Debug)]
struct Names(Mutex<Vec<Vec<&'static str>>>);

impl Lookup for Names {
    fn lookup<'a>(&'a self, _host: &'a str, port: u16) -> Found<'a> {
        let mut left = self.0.lock().unwrap();
        let now = if left.len() > 1 { left.remove(0) } else { left.first().cloned().unwrap_or_default() };
        Box::pin(async move { Ok(now.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect()) })
    }
}

fn outgoing(allowed: Allowed, names: Vec<Vec<&'static str>>) -> Outgoing {
    let limits = Limits { connect: Duration::from_millis(400), whole: Duration::from_millis(800) };
    Outgoing::new(Calls { allowed, lookup: Arc::new(Names(Mutex::new(names))), limits }, &Authorities::none()).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_form_is_sent_and_the_answer_read() {
    let there = receiver(OK, Duration::ZERO).await;
    let outgoing = outgoing(Allowed::loopback(), vec![vec!["127.0.0.1"]]);
    let url = format!("http://rp.test:{}/logout?a=b", there.port);
    let answer = outgoing.post_form(&url, "logout_token=x.y.z".into()).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    let got = there.got.lock().unwrap()[0].to_lowercase();
    assert!(got.starts_with("post /logout?a=b http/1.1\r\n") && got.ends_with("\r\n\r\nlogout_token=x.y.z"), "{got}");
    assert!(got.contains(&format!("host: rp.test:{}\r\n", there.port)), "{got}");
    assert!(got.contains("content-type: application/x-www-form-urlencoded\r\n"), "{got}");
    let got = outgoing.get_json(&format!("http://127.0.0.1:{}/jwks", there.port), 10).await.unwrap();
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn what_is_not_public_is_never_connected_to() {
    let there = receiver(OK, Duration::ZERO).await;
    let url = |host: &str| format!("http://{host}:{}/", there.port);
    let closed = outgoing(Allowed::nothing(), vec![vec!["127.0.0.1"]]);
    for host in ["rp.test", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"] {
        let refused = closed.post_form(&url(host), String::new()).await.unwrap_err();
        assert!(matches!(refused, OutgoingError::Refused(_)), "{host}: {refused}");
    }
    // One address of several is enough.
    let mixed = outgoing(Allowed::nothing(), vec![vec!["93.184.216.34", "10.0.0.1"]]);
    let refused = mixed.post_form("https://rp.test/", String::new()).await.unwrap_err();
    assert_eq!(refused, OutgoingError::Refused("10.0.0.1".parse().unwrap()));
    assert_eq!(there.connections.load(Ordering::SeqCst), 0);
    // Plain text leaves this network in no case.
    let plain = outgoing(Allowed::loopback(), vec![vec!["93.184.216.34"]]);
    assert_eq!(plain.post_form("http://rp.test/", String::new()).await.unwrap_err(), OutgoingError::Plain);
}

/// A name that is public when it is looked at, and private when it is connected to: it is looked up once.
#[tokio::test]
async fn a_name_cannot_change_its_mind() {
    let there = receiver(OK, Duration::ZERO).await;
    let names = vec![vec!["192.0.2.1"], vec!["127.0.0.1"]];
    let allowed = Allowed::networks(["192.0.2.0/24".parse().unwrap()]);
    let outgoing = outgoing(allowed, names);
    let url = format!("http://rp.test:{}/", there.port);
    let failed = outgoing.post_form(&url, String::new()).await.unwrap_err();
    assert!(matches!(failed, OutgoingError::Timeout | OutgoingError::Transport(_)), "{failed}");
    // The next call sees what it is now.
    let refused = outgoing.post_form(&url, String::new()).await.unwrap_err();
    assert!(matches!(refused, OutgoingError::Refused(_)), "{refused}");
    assert_eq!(there.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn redirects_slowness_and_length_end_it() {
    let outgoing = outgoing(Allowed::loopback(), vec![vec!["127.0.0.1"]]);
    let elsewhere = receiver(OK, Duration::ZERO).await;
    let redirect: &'static str = Box::leak(
        format!("HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n", elsewhere.port)
            .into_boxed_str(),
    );
    let there = receiver(redirect, Duration::ZERO).await;
    let answer = outgoing.post_form(&format!("http://rp.test:{}/", there.port), String::new()).await.unwrap();
    assert_eq!((answer.status, elsewhere.connections.load(Ordering::SeqCst)), (307, 0));
    let slow = receiver(OK, Duration::from_secs(60)).await;
    let failed = outgoing.post_form(&format!("http://rp.test:{}/", slow.port), String::new()).await.unwrap_err();
    assert_eq!(failed, OutgoingError::Timeout);
    let long = receiver(OK, Duration::ZERO).await;
    let failed = outgoing.get_json(&format!("http://rp.test:{}/", long.port), 1).await.unwrap_err();
    assert_eq!(failed, OutgoingError::TooLong);
    let broken = receiver("nonsense\r\n\r\n", Duration::ZERO).await;
    let failed = outgoing.get_json(&format!("http://rp.test:{}/", broken.port), 1).await.unwrap_err();
    assert!(matches!(failed, OutgoingError::Transport(_)), "{failed}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let failed = outgoing.get_json(&format!("http://rp.test:{nobody}/"), 1).await.unwrap_err();
    assert!(matches!(failed, OutgoingError::Transport(_)), "{failed}");
}

#[tokio::test]
async fn what_is_no_address_is_refused_before_anything() {
    let outgoing = outgoing(Allowed::everything(), vec![vec![]]);
    let long = format!("https://rp.test/{}", "a".repeat(MAX_URL));
    for url in [
        "",
        "rp.test",
        "/path",
        "ftp://rp.test/",
        "file:///etc/passwd",
        "https://",
        "https://a@rp.test/",
        "https://rp.test/#x",
        &long,
    ] {
        let refused = outgoing.get_json(url, 1).await.unwrap_err();
        assert!(matches!(refused, OutgoingError::BadUrl(_)), "{url}: {refused}");
    }
    let nowhere = outgoing.get_json("https://rp.test/", 1).await.unwrap_err();
    assert!(matches!(nowhere, OutgoingError::NoAddress(_)), "{nowhere}");
}
