//! What people's own programs call: sign up, sign in, refresh, look at the own devices, end them.
mod accounts;
mod api_keys;
mod apps;
mod links;
mod me;
mod own;
mod recovery;
mod sessions;

use crate::table::Table;

pub(crate) fn routes(table: Table) -> Table {
    table
        .post("/v1/accounts", accounts::sign_up)
        .post("/v1/sessions", sessions::sign_in)
        .post("/v1/recovery", recovery::recover)
        .post("/v1/sessions/refresh", sessions::refresh)
        .get("/v1/me", me::me)
        .patch("/v1/me", own::change)
        .delete("/v1/me", own::delete)
        .post("/v1/me/password", own::password)
        .post("/v1/me/email", own::email)
        .get("/v1/me/events", own::events)
        .get("/v1/me/api-keys", api_keys::list)
        .post("/v1/me/api-keys", api_keys::create)
        .post("/v1/api-keys/token", api_keys::token)
        .get("/v1/me/apps", apps::list)
        .delete("/v1/me/apps/{client_id}", apps::disconnect)
        .get("/v1/me/links", links::list)
        .delete("/v1/me/links/{link_id}", links::remove)
        .get("/v1/me/sessions", me::sessions)
        .delete("/v1/me/sessions", me::end_all)
        .delete("/v1/me/sessions/current", me::end_current)
        .patch("/v1/me/sessions/{sid}", me::rename)
        .delete("/v1/me/sessions/{sid}", me::end_one)
}
