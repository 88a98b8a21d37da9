//! The table of routes: axum's router, and beside it the list of what was put in, for metrics and for the test that holds
//! `openapi.json` against it.
use crate::request::Shared;
use crate::traffic::RouteCounts;
use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use http::Method;

/// Routes under construction.
#[derive(Debug, Default)]
pub struct Table {
    router: Router<Shared>,
    list: Vec<(Method, &'static str)>,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $method:ident, $routing:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<H, T>(self, path: &'static str, handler: H) -> Self
        where
            H: Handler<T, Shared>,
            T: 'static,
        {
            self.add(Method::$method, path, $routing(handler))
        }
    )*};
}

impl Table {
    /// No routes yet.
    pub fn new() -> Self {
        Self::default()
    }

    methods! {
        /// Adds a GET route (HEAD comes with it).
        get = GET, get;
        /// Adds a POST route.
        post = POST, post;
        /// Adds a PUT route.
        put = PUT, put;
        /// Adds a PATCH route.
        patch = PATCH, patch;
        /// Adds a DELETE route.
        delete = DELETE, delete;
    }

    fn add(mut self, method: Method, path: &'static str, handler: MethodRouter<Shared>) -> Self {
        self.list.push((method, path));
        self.router = self.router.route(path, handler);
        self
    }

    /// Method and path of every route.
    pub fn list(&self) -> Vec<(String, String)> {
        self.list.iter().map(|(method, path)| (method.to_string(), (*path).to_owned())).collect()
    }

    pub(crate) fn finish(self) -> (Router<Shared>, RouteCounts) {
        (self.router, RouteCounts::new(&self.list))
    }
}
