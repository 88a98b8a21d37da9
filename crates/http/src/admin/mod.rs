//! The admin API: for administrators by token, and for operators on the admin socket. Who acts is asked first, in every
//! handler; whether they still may is checked again in the act's own transaction.
mod accounts;
mod audit;
mod clients;
mod keys;
mod messages;
mod reads;
mod revocations;
mod roles;
mod rules;
mod stream;
mod transfer;
mod upkeep;
mod webhooks;

use crate::table::Table;

/// Besides, on the admin socket.
pub(crate) fn operator_routes(table: Table) -> Table {
    table
        .post("/v1/admin/backup", upkeep::backup)
        .post("/v1/admin/refound", upkeep::refound)
        .get("/v1/admin/rollback", upkeep::rollback)
        .post("/v1/admin/probe", upkeep::probe)
        .get("/v1/admin/probe", upkeep::probed)
}

pub(crate) fn routes(table: Table) -> Table {
    table
        .get("/v1/admin/accounts", accounts::list)
        .post("/v1/admin/accounts", accounts::create)
        .post("/v1/admin/roles", roles::change)
        .post("/v1/admin/import", transfer::import)
        .get("/v1/admin/export", transfer::export)
        .get("/v1/admin/accounts/{id}", accounts::get)
        .patch("/v1/admin/accounts/{id}", accounts::change)
        .delete("/v1/admin/accounts/{id}", accounts::delete)
        .post("/v1/admin/accounts/{id}/block", accounts::block)
        .post("/v1/admin/accounts/{id}/unblock", accounts::unblock)
        .get("/v1/admin/accounts/{id}/links", accounts::links)
        .get("/v1/admin/accounts/{id}/sessions", accounts::sessions)
        .delete("/v1/admin/accounts/{id}/sessions", accounts::end_sessions)
        .delete("/v1/admin/sessions/{sid}", revocations::end_session)
        .get("/v1/admin/revocations", revocations::list)
        .post("/v1/admin/revocations", revocations::create)
        .get("/v1/admin/revocations/{rev}", revocations::get)
        .get("/v1/admin/clients", clients::list)
        .post("/v1/admin/clients", clients::create)
        .get("/v1/admin/clients/{id}", clients::get)
        .patch("/v1/admin/clients/{id}", clients::change)
        .post("/v1/admin/clients/{id}/secret", clients::rotate_secret)
        .get("/v1/admin/verifiers", reads::verifiers)
        .get("/v1/admin/events", audit::events)
        .get("/v1/admin/events/stream", stream::open)
        .get("/v1/admin/audit", audit::state)
        .get("/v1/admin/audit/check", audit::check)
        .post("/v1/admin/audit/begin-anew", audit::begin_anew)
        .post("/v1/admin/audit/go-on", audit::go_on)
        .get("/v1/admin/messages", messages::list)
        .post("/v1/admin/messages/{id}/retry", messages::retry)
        .get("/v1/admin/rules", rules::state)
        .post("/v1/admin/signals", rules::signal)
        .get("/v1/admin/webhooks", webhooks::list)
        .post("/v1/admin/webhooks", webhooks::create)
        .get("/v1/admin/webhooks/{id}", webhooks::get)
        .patch("/v1/admin/webhooks/{id}", webhooks::change)
        .delete("/v1/admin/webhooks/{id}", webhooks::delete)
        .post("/v1/admin/webhooks/{id}/secret", webhooks::rotate)
        .post("/v1/admin/webhooks/{id}/test", webhooks::test)
        .get("/v1/admin/webhooks/{id}/messages", webhooks::messages)
        .post("/v1/admin/webhooks/{id}/replay", webhooks::replay)
        .get("/v1/admin/keys", keys::list)
        .post("/v1/admin/keys/rotate", keys::rotate)
        .post("/v1/admin/keys/rotate-master", keys::rotate_master)
        .post("/v1/admin/keys/{id}/revoke", keys::revoke)
}
