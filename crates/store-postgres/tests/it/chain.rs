//! The database's link of the chain is wire's.
use crate::support::{database, open, runtime};
use portcullis_wire::{AccountId, Chain, ClientId, Entry, LogId, Rev, SessionId, Target, Time, Verb};
use sqlx::Connection as _;

#[test]
fn sql_and_rust_make_the_same_link() {
    runtime().block_on(async {
        let url = database();
        drop(open(&url).await);
        let mut db = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::query("SET search_path = portcullis").execute(&mut db).await.unwrap();
        let session = SessionId::from_bits(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef);
        let entry = |rev, verb, target, except, spread_ms, until| Entry {
            rev: Rev(rev),
            verb,
            target,
            except,
            spread_ms,
            until: Time(until),
        };
        let entries = [
            entry(1, Verb::End, Target::All, Some(session), None, 0),
            entry(2, Verb::Stale, Target::Account(AccountId::from_bits(u128::MAX)), None, Some(60_000), i64::MAX),
            entry(1 << 62, Verb::End, Target::Client(ClientId::FIRST_PARTY), None, Some(0), i64::MIN),
            entry(3, Verb::Other("ünd".into()), Target::Other { scope: "日本".into(), id: "x".into() }, None, None, 5),
        ];
        let mut chain = Chain::genesis(LogId::from_bits(9));
        for entry in &entries {
            let sql: Vec<u8> = sqlx::query_scalar("SELECT link_after($1, $2, $3, $4, $5, $6, $7, $8)")
                .bind(chain.0)
                .bind(entry.rev.0 as i64)
                .bind(entry.verb.name())
                .bind(entry.target.scope())
                .bind(entry.target.id())
                .bind(entry.except.map(|id| id.bits().to_be_bytes()))
                .bind(entry.spread_ms.map(|ms| ms as i64))
                .bind(entry.until.0)
                .fetch_one(&mut db)
                .await
                .unwrap();
            chain = chain.after(entry);
            assert_eq!(sql, chain.0, "{entry:?}");
        }
        for bits in [0, 1, 31, 32, u128::MAX, 0x8000_0000_0000_0000_0000_0000_0000_0000, session.bits()] {
            let text: String = sqlx::query_scalar("SELECT id_text('ses', $1)")
                .bind(bits.to_be_bytes())
                .fetch_one(&mut db)
                .await
                .unwrap();
            assert_eq!(text, SessionId::from_bits(bits).to_string());
        }
    });
}
