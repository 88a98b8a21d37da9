//! One keep-alive connection to one server, one call at a time.
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;
use tokio::net::TcpStream;

/// No answer is longer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A caller waits as long for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub type Fault = Box<dyn Error + Send + Sync>;

/// A connection.
pub struct Caller {
    address: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Caller {
    /// Connects.
    pub async fn connect(address: &str) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address: address.to_owned(), sender })
    }

    /// The body of a successful answer; any other answer is an error.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<String>,
    ) -> Result<Bytes, Fault> {
        match self.answer(method, path, token, &BTreeMap::new(), body).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// Status and body of whatever is answered.
    pub async fn answer(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &BTreeMap<String, String>,
        body: Option<String>,
    ) -> Result<(StatusCode, Bytes), Fault> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() && !headers.contains_key(header::CONTENT_TYPE.as_str()) {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok((status, body))
        };
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs()).into()),
        }
    }
}
