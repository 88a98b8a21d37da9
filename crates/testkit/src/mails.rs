//! A mail server that keeps what it gets, and a mailer that sends there.
use portcullis_app::{Catcher, Caught, MailOptions, Mailer};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// As long as a mail may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// A mail server on loopback.
#[derive(Debug)]
pub struct PostOffice {
    /// What it got.
    pub catcher: Catcher,
    /// Sends there.
    pub mailer: Mailer,
}

impl PostOffice {
    /// Opens one.
    pub async fn open() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    /// Opens one at this address.
    pub async fn at(address: SocketAddr) -> Self {
        let catcher = Catcher::start(TcpListener::bind(address).await.expect("a free port")).expect("an address");
        let mailer = mailer(catcher.address);
        Self { catcher, mailer }
    }

    /// All mails, once there are so many.
    pub async fn wait_for(&self, count: usize) -> Vec<Caught> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mails = self.catcher.mails();
            if mails.len() >= count {
                return mails;
            }
            assert!(tokio::time::Instant::now() < until, "{} of {count} mails have come", mails.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The path of the newest link that begins like this, once there is one.
    pub async fn link(&self, beginning: &str) -> String {
        self.link_about("", beginning).await
    }

    /// The same, in a mail with these words in its subject.
    pub async fn link_about(&self, words: &str, beginning: &str) -> String {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let about = |mail: &Caught| mail.header("Subject").contains(words);
            let mut links = self.catcher.mails().into_iter().rev().filter(about).filter_map(|mail| path_of(&mail));
            if let Some(path) = links.find(|path| path.starts_with(beginning)) {
                return path;
            }
            assert!(tokio::time::Instant::now() < until, "no mail with {beginning} has come");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Sends to this address.
pub fn mailer(to: SocketAddr) -> Mailer {
    let url = format!("smtp://{to}");
    let from = "Portcullis <id@example.test>";
    let options = MailOptions { url: &url, from, templates: None, language: "en", authorities: &[] };
    Mailer::new(&options).expect("a mailer")
}

/// The path of the link in a mail.
pub fn path_of(mail: &Caught) -> Option<String> {
    let link = mail.link()?;
    let (_, rest) = link.split_once("://")?;
    rest.find('/').map(|at| rest[at..].to_owned())
}
