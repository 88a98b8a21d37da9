//! The pages: by hand over HTTP, and in a real browser.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Browser, TestServer};
use serde_json::json;

const SESSION: &str = "__Host-portcullis_session";

fn form(server: &TestServer, path: &str) -> portcullis_testkit::client::Call {
    server.client.post(path).header("origin", &server.issuer)
}

async fn sign_in(server: &TestServer, return_to: &str) -> Answer {
    let password = PASSWORD.replace(' ', "+");
    form(server, "/sign-in")
        .form(&format!("identifier=ada%40example.test&password={password}&return_to={return_to}"))
        .send()
        .await
}

fn with_cookie(call: portcullis_testkit::client::Call, cookie: &str) -> portcullis_testkit::client::Call {
    call.header("cookie", format!("{SESSION}={cookie}"))
}

#[tokio::test]
async fn a_page_says_what_a_browser_may_do() {
    let server = TestServer::usual().await;
    let page = server.client.get("/sign-in").send().await.expect(200);
    let policy = page.header("content-security-policy");
    for part in
        ["default-src 'none'", "style-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), value, "{name}");
    }
    let html = page.text();
    for absent in ["<script", "javascript:", " style=", " onclick", "http://", "https://"] {
        assert!(!html.contains(absent), "{absent}");
    }
    // What the page loads is there, and may be kept.
    for asset in html.split('"').filter(|part| part.starts_with("/assets/")) {
        let asset = server.client.get(asset).send().await.expect(200);
        assert!(asset.header("cache-control").contains("immutable"));
    }
}

#[tokio::test]
async fn signing_in_leads_to_paths_of_this_origin_only() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    for (given, place) in [
        ("%2Faccount%2Fdevices%3Fdone%3Done", "/account/devices?done=one"),
        ("", "/account/devices"),
        ("%2F%2Fevil.example", "/account/devices"),
        ("%2F%5Cevil.example", "/account/devices"),
        ("https%3A%2F%2Fevil.example", "/account/devices"),
        ("%2F%09%2Fevil.example", "/account/devices"),
        ("%2Fa%0D%0ASet-Cookie%3A+x%3Dy", "/account/devices"),
    ] {
        let answer = sign_in(&server, given).await.expect(303);
        assert_eq!(answer.header("location"), place, "{given}");
        let shown = server.client.get(format!("/sign-in?return_to={given}")).send().await.expect(200).text();
        assert!(!shown.contains("evil"), "{given}");
    }
    let cookies = sign_in(&server, "").await.expect(303).set_cookies();
    assert_eq!(cookies.len(), 2, "this one, and the mark of a known device");
    for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age="] {
        assert!(cookies[0].contains(attribute), "{cookies:?}");
    }
}

#[tokio::test]
async fn forms_of_other_origins_are_refused_as_a_page() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let cookie = sign_in(&server, "").await.cookie(SESSION).unwrap();
    for path in [
        "/sign-in",
        "/sign-out",
        "/account/devices/end",
        "/account/devices/rename",
        "/account/devices/end-others",
        "/account/devices/end-all",
    ] {
        for origin in [Some("https://evil.example"), Some("null"), None] {
            let mut call = with_cookie(server.client.post(path), &cookie).form("session=x&identifier=a&password=b");
            if let Some(origin) = origin {
                call = call.header("origin", origin);
            }
            let refused = call.send().await.expect(403);
            assert!(refused.header("content-type").starts_with("text/html"), "{path}");
            assert!(
                refused.set_cookies().is_empty() && refused.text().contains("Requests from this origin are refused"),
                "{path} {}",
                refused.text()
            );
        }
    }
    with_cookie(server.client.get("/account/devices"), &cookie).send().await.expect(200);
}

#[tokio::test]
async fn a_device_is_renamed_by_a_plain_form() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    server.sign_up("eve@example.test").await;
    let (phone, eve) = (server.sign_in("ada@example.test").await, server.sign_in("eve@example.test").await);
    let cookie = sign_in(&server, "").await.cookie(SESSION).unwrap();
    let rename = |session: &str, name: &str| {
        let body = format!("session={session}&device_name={name}");
        with_cookie(form(&server, "/account/devices/rename"), &cookie).form(&body).send()
    };
    let done = rename(&phone.sid, "Ada%27s+%3Cb%3Ephone").await.expect(303);
    assert_eq!(done.header("location"), "/account/devices?done=renamed");
    let page = with_cookie(server.client.get("/account/devices?done=renamed"), &cookie).send().await.expect(200).text();
    assert!(page.contains("Ada&#x27;s &lt;b&gt;phone") && page.contains("has its new name"), "{page}");
    assert_eq!(rename(&phone.sid, "").await.status, 422);
    assert_eq!(rename(&eve.sid, "mine").await.status, 404);
    assert_eq!(rename("x", "mine").await.status, 404);
}

#[tokio::test]
async fn what_is_wrong_is_said_on_the_form_and_nothing_is_told_before() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    let attempt = |identifier: &'static str, password: &'static str| {
        form(&server, "/sign-in").form(&format!("identifier={identifier}&password={password}")).send()
    };
    let wrong = attempt("ada%40example.test", "wrong").await.expect(401);
    let unknown = attempt("eve%40example.test", "wrong").await.expect(401);
    assert_eq!(wrong.text().replace("ada@", ""), unknown.text().replace("eve@", ""));
    assert!(wrong.text().contains("role=\"alert\"") && wrong.text().contains("value=\"ada@example.test\""));
    let block = server.client.post(format!("/v1/admin/accounts/{account}/block")).bearer(&admin.access);
    block.json(&json!({ "reason": "a <b>lost</b> phone" })).send().await.expect(200);
    let blocked = attempt("ada%40example.test", "wrong").await.expect(401);
    assert_eq!(blocked.text(), wrong.text());
    let told = attempt("ada%40example.test", "a+good+long+password").await.expect(403);
    assert!(
        told.text().contains("is blocked") && told.text().contains("a &lt;b&gt;lost") && told.set_cookies().is_empty(),
        "{}",
        told.text()
    );
    // What somebody types comes back as text, never as markup.
    let odd = attempt("%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", "x").await.expect(401);
    assert!(!odd.text().contains("<script"));
}

#[tokio::test]
async fn the_session_cookie_is_cleared_by_a_certain_end_only() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let cookie = sign_in(&server, "").await.cookie(SESSION).unwrap();
    let devices = |cookie: &str| with_cookie(server.client.get("/account/devices"), cookie).send();
    devices(&cookie).await.expect(200);
    // Not ours: to the form, and the cookie stays where it is.
    let strange = devices("pcs_garbage").await.expect(303);
    assert!(strange.header("location").starts_with("/sign-in") && strange.set_cookies().is_empty());
    let none = server.client.get("/account/devices").send().await.expect(303);
    assert_eq!(none.header("location"), "/sign-in?return_to=%2Faccount%2Fdevices");
    assert_eq!(server.client.get("/account").send().await.expect(303).header("location"), "/account/devices");
    let admin = server.admin().await;
    let path = format!("/v1/admin/accounts/{account}/sessions");
    server.client.delete(path).bearer(&admin.access).send().await.expect(200);
    let gone = devices(&cookie).await.expect(303);
    assert!(gone.header("location").contains("notice=ended"));
    assert_eq!(gone.cookie(SESSION).as_deref(), Some(""));
    // Signing out with the dead cookie is fine, too.
    let out = with_cookie(form(&server, "/sign-out"), &cookie).send().await.expect(303);
    assert_eq!((out.header("location"), out.cookie(SESSION).as_deref()), ("/sign-in?notice=signed-out", Some("")));
}

#[tokio::test]
async fn another_accounts_session_cannot_be_ended_from_the_page() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    server.sign_up("bob@example.test").await;
    let bob = server.sign_in("bob@example.test").await;
    let cookie = sign_in(&server, "").await.cookie(SESSION).unwrap();
    let end = with_cookie(form(&server, "/account/devices/end"), &cookie).form(&format!("session={}", bob.sid));
    end.send().await.expect(404);
    server.client.get("/v1/me").bearer(&bob.access).send().await.expect(200);
}

/// Somebody signs in with the form, sees their devices, ends one, ends the others, and signs out everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_real_browser() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let body = |name: &str| json!({ "device_name": name });
    let phone = server.sign_in_as("ada@example.test", PASSWORD, body("Ada's phone <b>")).await;
    let tablet = server.sign_in_as("ada@example.test", PASSWORD, body("Kitchen tablet")).await;
    let Some(mut browser) = tokio::task::block_in_place(Browser::start_or_say) else {
        return;
    };
    let me = async |access: &str| server.client.get("/v1/me").bearer(access).send().await.status.as_u16();

    tokio::task::block_in_place(|| {
        browser.open(&format!("{}/account/devices", server.issuer));
        assert_eq!(browser.path(), "/sign-in?return_to=%2Faccount%2Fdevices");
        shoot(&mut browser, "sign-in");
        browser.fill("#identifier", "ada@example.test");
        browser.fill("#password", "not the password");
        browser.click_through("button.primary");
        assert!(browser.text().contains("is not right"));
        shoot(&mut browser, "sign-in-wrong");
        browser.fill("#identifier", "ada@example.test");
        browser.fill("#password", PASSWORD);
        browser.click_through("button.primary");
        assert_eq!(browser.path(), "/account/devices");
        // The stylesheet was loaded under the policy, and the names are text.
        assert_eq!(browser.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius"), "12px");
        let text = browser.text();
        assert!(text.contains("Ada's phone <b>") && text.contains("Kitchen tablet"), "{text}");
        // By its client hints, which say which Chrome it is.
        assert!(text.contains(" on Linux") && text.contains("current"), "{text}");
        assert_eq!(browser.count("li.device"), 2);
        // The browser holds a cookie that no script can read, though this is plain HTTP on loopback.
        let cookies = browser.cookies();
        assert_eq!(cookies.len(), 2, "the session's, and the mark of a known device");
        assert!(cookies.iter().any(|cookie| cookie["name"] == SESSION));
        for cookie in &cookies {
            assert_eq!((cookie["secure"].as_bool(), cookie["httpOnly"].as_bool()), (Some(true), Some(true)));
            assert_eq!(cookie["sameSite"], "Lax");
        }
        shoot(&mut browser, "devices");

        let row = format!("li[data-session='{}']", tablet.sid);
        browser.click(&format!("{row} summary"));
        browser.wait_for(&format!("document.querySelector(\"{row} details\").open"));
        browser.fill(&format!("{row} input[name='device_name']"), "Old tablet");
        browser.click_through(&format!("{row} .rename button"));
        assert_eq!(browser.path(), "/account/devices?done=renamed");
        assert!(browser.text().contains("Old tablet") && !browser.text().contains("Kitchen"));

        browser.click_through(&format!("li[data-session='{}'] form[action$='/end'] button", phone.sid));
        assert_eq!(browser.path(), "/account/devices?done=one");
        assert_eq!(browser.count("li.device"), 1);
    });
    assert_eq!((me(&phone.access).await, me(&tablet.access).await), (401, 200));
    tokio::task::block_in_place(|| {
        browser.click_through("#end-others");
        assert_eq!(browser.path(), "/account/devices?done=others");
        assert_eq!(browser.count("li.device"), 0);
        shoot(&mut browser, "devices-alone");
    });
    assert_eq!(me(&tablet.access).await, 401);
    tokio::task::block_in_place(|| {
        browser.click("#end-all-ask");
        browser.wait_for("document.querySelector('#end-all-ask').parentElement.open");
        browser.click_through("#end-all");
        assert_eq!(browser.path(), "/sign-in?notice=all-ended");
        assert!(browser.cookies().iter().all(|cookie| cookie["name"] != SESSION));
        browser.open(&format!("{}/account/devices", server.issuer));
        assert!(browser.path().starts_with("/sign-in"));
    });
}

/// A page of another origin cannot sign anybody out, whatever it tries with a form.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_in_a_real_browser() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let Some(mut browser) = tokio::task::block_in_place(Browser::start_or_say) else {
        return;
    };
    tokio::task::block_in_place(|| {
        browser.open(&format!("{}/sign-in", server.issuer));
        browser.fill("#identifier", "ada@example.test");
        browser.fill("#password", PASSWORD);
        browser.click_through("button.primary");
        assert_eq!(browser.path(), "/account/devices");
        let attack = format!(
            "data:text/html,<form method=post action='{}/account/devices/end-all'><button>win a prize</button></form>",
            server.issuer
        );
        browser.open(&attack);
        browser.click_through("button");
        assert!(browser.text().contains("not sent by a page of this site"), "{}", browser.text());
        shoot(&mut browser, "refused");
        browser.open(&format!("{}/account/devices", server.issuer));
        assert_eq!(browser.path(), "/account/devices", "still signed in");
    });
}

/// With `PORTCULLIS_TEST_SHOTS` set to a directory, pictures of the pages for people to look at.
pub(crate) fn shoot(browser: &mut Browser, name: &str) {
    let Some(directory) = std::env::var_os("PORTCULLIS_TEST_SHOTS") else { return };
    for (suffix, dark, width, height) in
        [("", false, 1000, 900), ("-dark", true, 1000, 900), ("-narrow", false, 390, 844)]
    {
        browser.look(dark, width, height);
        let file = std::path::Path::new(&directory).join(format!("{name}{suffix}.png"));
        std::fs::write(file, browser.screenshot()).unwrap();
    }
    browser.look(false, 1000, 900);
}
