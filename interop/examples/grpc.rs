//! A service of tonic under a guard: the layer refuses calls and ends streams with a status, and a stream with messages of its
//! client takes newer tokens in them.
//!
//! ```proto
//! package portcullis.example;
//! service Clock {
//!   rpc Watch(Said) returns (stream Tick);        // ends with the token that it was called with
//!   rpc Talk(stream Said) returns (stream Tick);  // goes on with each newer token that is said
//! }
//! message Said { string token = 1; }
//! message Tick { uint64 n = 1; int64 until = 2; string refused = 3; }
//! ```
//!
//! What `tonic-build` would make of that is written out here, so that no `protoc` is needed.
//!
//! `ISSUER=http://127.0.0.1:7400 CLIENT_ID=… CLIENT_SECRET=… cargo run --manifest-path interop/Cargo.toml --example grpc`
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use portcullis_tower::{Config, Guard, Verifier, VerifyLayer};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::{env::var, error::Error, time::Duration};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::{Server, server::Router};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::layer::util::{Identity, Stack};

/// The pause between two messages.
pub const TICK: Duration = Duration::from_millis(100);

/// What a client says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Said {
    /// A newer access token.
    #[prost(string, tag = "1")]
    pub token: String,
}

/// What the service says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tick {
    /// Counts.
    #[prost(uint64, tag = "1")]
    pub n: u64,
    /// The answer to a token: the `exp` of the newest one shown.
    #[prost(int64, tag = "2")]
    pub until: i64,
    /// The answer to a token: why it changes nothing.
    #[prost(string, tag = "3")]
    pub refused: String,
}

type Ticks = BoxStream<'static, Result<Tick, Status>>;

fn ticks() -> Ticks {
    let ticks = stream::unfold(0, async |n| {
        tokio::time::sleep(TICK).await;
        Some((Ok(Tick { n, ..Tick::default() }), n + 1))
    });
    ticks.boxed()
}

/// Nothing here knows of tokens: the layer ends it.
async fn watch(_: Request<Said>) -> Result<Response<Ticks>, Status> {
    Ok(Response::new(ticks()))
}

async fn talk(request: Request<Streaming<Said>>) -> Result<Response<Ticks>, Status> {
    // The layer's own guard, which watches over the answer.
    let guard = request.extensions().get::<Guard>().cloned();
    let guard = guard.ok_or_else(|| Status::internal("no layer guards this service"))?;
    let answers = request.into_inner().then(move |said| answer(guard.clone(), said));
    Ok(Response::new(stream::select(ticks(), answers).boxed()))
}

async fn answer(guard: Guard, said: Result<Said, Status>) -> Result<Tick, Status> {
    let refused =
        guard.renew_with(&said?.token).await.map_or_else(|error| error.code().to_string(), |()| String::new());
    Ok(Tick { until: guard.verified().claims().exp, refused, n: 0 })
}

/// The service, as `tonic-build` would write it.
#[derive(Clone, Debug)]
pub struct Clock;

impl NamedService for Clock {
    const NAME: &'static str = "portcullis.example.Clock";
}

impl tower::Service<http::Request<Body>> for Clock {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        async move {
            let mut grpc = Grpc::new(ProstCodec::<Tick, Said>::default());
            Ok(match request.uri().path() {
                "/portcullis.example.Clock/Watch" => grpc.server_streaming(tower::service_fn(watch), request).await,
                "/portcullis.example.Clock/Talk" => grpc.streaming(tower::service_fn(talk), request).await,
                _ => Status::unimplemented("").into_http(),
            })
        }
        .boxed()
    }
}

/// The server: everything behind the layer, which guards what it lets through.
pub fn server(verifier: Verifier) -> Router<Stack<VerifyLayer, Identity>> {
    Server::builder().layer(VerifyLayer::new(verifier).guarding()).add_service(Clock)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = var("ISSUER")?;
    let verifier = Verifier::start(Config::new(&issuer, &issuer, var("CLIENT_ID")?, var("CLIENT_SECRET")?))?;
    Ok(server(verifier).serve("127.0.0.1:3000".parse()?).await?)
}
