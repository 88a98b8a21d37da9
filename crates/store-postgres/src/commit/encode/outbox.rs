//! Messages and notices: `set_outgoing`.
use super::{Encoded, id, id_if, int, text, text_if};
use portcullis_domain::changes::Change;
use portcullis_domain::outbox::Message;
use portcullis_store::StoreError;
use serde_json::{Value, json};

pub(super) fn step(what: &Change) -> Encoded {
    Ok(match what {
        Change::InsertMessage(row) => message("insert_message", row),
        Change::UpdateMessage(row) => message("update_message", row),
        Change::StepNotice(step) => json!({
            "do": "step_notice", "seq": int(step.seq)?, "from": id_if(step.from), "to": id_if(step.to),
        }),
        other => return Err(StoreError::new(format_args!("a change nobody applies: {other:?}"))),
    })
}

fn message(what: &str, row: &Message) -> Value {
    json!({
        "do": what, "id": id(row.id), "kind": row.kind.as_str(), "client": id_if(row.client), "body": text(&row.body),
        "created_at": row.created_at.0, "next_at": row.next_at.0, "give_up_at": row.give_up_at.0, "tries": row.tries,
        "state": row.state.as_str(), "settled_at": row.settled_at.map(|at| at.0),
        "last_error": text_if(row.last_error.as_ref()), "version": row.version,
    })
}
