//! [`Verified`] and [`Guard`] as axum extractors, and [`Refusal`] as an axum response.
use crate::{Guard, Refusal, Verified};
use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

impl<S: Send + Sync> FromRequestParts<S> for Verified {
    type Rejection = Response;

    /// What a [`crate::VerifyLayer`] put there. Without one around the route nothing was verified, and nothing is served: 500.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "no VerifyLayer is around this route");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Guard {
    type Rejection = Response;

    /// The layer's own guard where it has one ([`crate::VerifyLayer::guarding`]), else a new one.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match parts.extensions.get::<Self>() {
            Some(guard) => Ok(guard.clone()),
            None => Ok(Verified::from_request_parts(parts, state).await?.guard()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response(&HeaderMap::new())
    }
}
