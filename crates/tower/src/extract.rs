//! [`Verified`] as an axum extractor, and [`Refusal`] as an axum response.
use crate::{Refusal, Verified};
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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response(&HeaderMap::new())
    }
}
