//! Signing in at an application in a real browser, which holds redirects against the policy of the page with the form.
use crate::pages::shoot;
use portcullis_testkit::application::request;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Browser, TestServer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An application on another origin: it answers every request with a page.
async fn application() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/cb", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 8192]).await;
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 24\r\nconnection: close\r\n\r\n<h1>The application</h1>";
                let _ = stream.write_all(page.as_bytes()).await;
            });
        }
    });
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_application_and_back() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let place = application().await;
    let scopes = ["openid", "profile", "email", "offline_access", "https://api.example/photos.read"];
    let uri = "https://photos.example";
    let more = json!({ "name": "Photo prints", "redirect_uris": [place], "scopes": scopes, "client_uri": uri });
    let app = server.application("public", more).await;
    let Some(mut browser) = tokio::task::block_in_place(Browser::start_or_say) else {
        return;
    };
    tokio::task::block_in_place(|| {
        let asked = request(&app, &[("redirect_uri", &place), ("scope", &scopes.join(" "))]);
        browser.open(&format!("{}/oauth2/authorize?{asked}", server.issuer));
        browser.fill("#identifier", "ada@example.test");
        browser.fill("#password", PASSWORD);
        browser.click_through("button.primary");
        let text = browser.text();
        assert!(text.contains("Allow Photo prints?") && text.contains("Keep this access while you are away"), "{text}");
        shoot(&mut browser, "consent");
        browser.click_through("#allow");
        browser.wait_for("document.body.innerText.includes('The application')");
        assert!(browser.path().starts_with("/cb?code=pca_"), "{}", browser.path());
        browser.open(&format!("{}/account/apps", server.issuer));
        assert!(browser.text().contains("Photo prints"));
        shoot(&mut browser, "apps");
        browser.open(&format!("{}/oauth2/authorize?{asked}&prompt=login", server.issuer));
        browser.fill("#password", PASSWORD);
        browser.fill("#identifier", "ada@example.test");
        browser.click_through("button.primary");
        // It proves nothing of what it is, so its user is asked again.
        browser.click_through("#allow");
        browser.wait_for("document.body.innerText.includes('The application')");
        browser.open(&format!("{}/account/apps", server.issuer));
        browser.click_through("li button");
        assert!(browser.text().contains("It is disconnected"), "{}", browser.text());
        let wrong = request(&app, &[("redirect_uri", "https://evil.example/")]);
        browser.open(&format!("{}/oauth2/authorize?{wrong}", server.issuer));
        assert!(browser.text().contains("not set up correctly"), "{}", browser.text());
        shoot(&mut browser, "authorize-refused");
    });
}
