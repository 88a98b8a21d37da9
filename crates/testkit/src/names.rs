//! Names that lead where a test says, another way each time.
use portcullis_app::{Found, Lookup};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// What each name leads to. Of several answers each counts once, and the last for good.
#[derive(Debug, Default)]
pub struct Names {
    answers: Mutex<Vec<(String, Vec<Vec<IpAddr>>)>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// This name leads there, one after another.
    pub fn leads(&self, name: &str, answers: &[&[&str]]) {
        let address = |text: &&str| text.parse().expect("an address");
        let answers = answers.iter().map(|one| one.iter().map(address).collect()).collect();
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), answers));
    }

    /// The names that were asked for, in this order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next(&self, host: &str) -> Vec<IpAddr> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, left)) = all.iter_mut().find(|(name, _)| name == host) else { return vec![] };
        if left.len() > 1 { left.remove(0) } else { left.first().cloned().unwrap_or_default() }
    }
}

impl Lookup for Names {
    fn lookup<'a>(&'a self, host: &'a str, port: u16) -> Found<'a> {
        let found = self.next(host).into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Box::pin(async move { Ok(found) })
    }
}
