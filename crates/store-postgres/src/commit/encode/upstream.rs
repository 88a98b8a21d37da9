//! Links and origins: `set_link`.
use super::{Encoded, id, text, text_if};
use portcullis_domain::changes::Change;
use portcullis_store::StoreError;
use serde_json::json;

pub(super) fn step(what: &Change) -> Encoded {
    Ok(match what {
        Change::InsertLink(row) => json!({
            "do": "insert_link", "id": id(row.id), "issuer": text(&row.issuer), "subject": text(&row.subject),
            "account": id(row.account), "upstream": text(&row.upstream), "label": text_if(row.label.as_ref()),
            "created_at": row.created_at.0, "used_at": row.used_at.0, "out_at": row.out_at.map(|at| at.0),
        }),
        Change::UseLink { link, begun, at } => {
            json!({"do": "use_link", "id": id(*link), "begun": begun.0, "at": at.0})
        }
        Change::SignOutLink { issuer, subject, at } => {
            json!({"do": "sign_out_link", "issuer": text(issuer), "subject": text(subject), "at": at.0})
        }
        Change::RemoveLink { account, link } => json!({"do": "remove_link", "id": id(*link), "account": id(*account)}),
        Change::InsertOrigin(row) => json!({
            "do": "insert_origin", "id": id(row.session), "issuer": text(&row.issuer), "subject": text(&row.subject),
            "sid": text_if(row.sid.as_ref()),
        }),
        other => return Err(StoreError::new(format_args!("a change nobody applies: {other:?}"))),
    })
}
