//! What administrators see of links: `/v1/admin/accounts/{id}/links`.
use super::upstream::{Jar, sign_in, world};
use serde_json::json;

#[tokio::test]
async fn administrators_see_who_may_sign_in_to_an_account() {
    let (idp, server) = world().await;
    let admin = server.admin().await;
    sign_in(&idp, &server, &mut Jar::default(), json!({})).await.expect(303);
    let path = "/v1/admin/accounts?email=ada";
    let accounts = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    let id = accounts["accounts"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/admin/accounts/{id}/links");
    let links = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    let link = &links["links"][0];
    assert_eq!((link["upstream"].as_str(), link["subject"].as_str()), (Some("idp"), Some("sub-1")));
    assert_eq!((link["issuer"].as_str(), links["links"].as_array().unwrap().len()), (Some(&*idp.issuer), 1));
    // Nobody else's business, and nothing of nobody.
    server.sign_up("bob@example.test").await;
    let other = server.sign_in("bob@example.test").await;
    server.client.get(&*path).bearer(&other.access).send().await.expect_problem("insufficient_scope");
    let nobody = "/v1/admin/accounts/acc_00000000000000000000000001/links";
    server.client.get(nobody).bearer(&admin.access).send().await.expect_problem("not_found");
}
