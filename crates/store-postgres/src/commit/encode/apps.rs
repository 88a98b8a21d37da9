//! Consents and tickets: `set_consent`, `set_ticket`.
use super::{Encoded, hex, id, id_if, rev, text};
use portcullis_domain::changes::Change;
use portcullis_domain::ticket::Ticket;
use portcullis_store::StoreError;
use serde_json::json;

pub(super) fn step(what: &Change) -> Encoded {
    Ok(match what {
        Change::PutConsent(row) => json!({
            "do": "put_consent", "account": id(row.account), "client": id(row.client), "scope": text(&row.scope),
            "granted_at": row.granted_at.0, "generation": row.generation,
        }),
        Change::WithdrawConsent { account, client, generation } => json!({
            "do": "withdraw_consent", "account": id(*account), "client": id(*client), "generation": generation,
        }),
        Change::InsertTicket(row) => ticket("insert_ticket", row)?,
        Change::UpdateTicket(row) => ticket("update_ticket", row)?,
        Change::UseTicket { ticket, at, grant } => {
            json!({"do": "use_ticket", "id": hex(&ticket.0), "at": at.0, "grant": id_if(*grant)})
        }
        other => return Err(StoreError::new(format_args!("a change nobody applies: {other:?}"))),
    })
}

fn ticket(what: &str, row: &Ticket) -> Encoded {
    Ok(json!({
        "do": what, "id": hex(&row.id.0), "kind": row.kind.as_str(), "account": id_if(row.account),
        "session": id_if(row.session), "client": id_if(row.client), "born": rev(row.born)?, "epoch": row.epoch.0,
        "expires_at": row.expires_at.0, "body": text(&row.body), "version": row.version,
        "used_at": row.used.map(|used| used.at.0), "used_grant": id_if(row.used.and_then(|used| used.grant)),
    }))
}
