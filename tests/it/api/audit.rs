//! Sealing, verifying and proving, through a running server.

use tako_vm::config::Config;
use tako_vm::store::audit::{Proof, PublicKey, Seal, Trust};

use super::site::{Site, run_with};

fn sealed_often(config: &mut Config) {
    config.audit.seal_every = std::time::Duration::from_millis(100);
}

/// Asks until a seal covers every event of the execution.
async fn proof(site: &Site, id: &str) -> Proof {
    loop {
        let answer = site.get(&format!("/executions/{id}/proof")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let proof: Proof = serde_json::from_str(answer.text()).unwrap();
        if proof.is_complete() {
            return proof;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_execution_is_proven_and_the_log_verifies() {
    run_with(sealed_often, async |site| {
        let id = site.ended("print(1)").await;
        let proof = proof(&site, &id).await;
        let verified = site.get("/audit/verify").await.expect(200);
        assert_eq!((&verified["ok"], &verified["complete"]), (&true.into(), &true.into()), "{verified}");
        assert!(verified["first_bad"].is_null() && verified["next_since_seal"].is_null(), "{verified}");
        assert_eq!(verified["signed"], verified["seals"]);
        // The node trusts its own key, which it made at its start; so does who was given it.
        let key: PublicKey = verified["trusted_keys"][0].as_str().unwrap().parse().unwrap();
        let trust = Trust { keys: vec![key], ..Trust::default() };
        assert_eq!(proof.check(&trust).unwrap().sealed, proof.events.len());
        assert_eq!(proof.execution_id.to_string(), id);

        let page = site.get("/audit/seals?limit=1").await.expect(200);
        let seal: Seal = serde_json::from_value(page["items"][0].clone()).unwrap();
        assert!(seal.is_signed());
        assert_eq!((seal.seal_no, &page["next_after"]), (1, &1.into()));

        let nobody = uuid::Uuid::now_v7();
        assert!(site.get(&format!("/executions/{nobody}/proof")).await.refused(404).contains("does not exist"));
        assert!(site.get("/audit/verify?max_events=0").await.refused(422).contains("max_events"));
        let absent = site.get("/audit/verify?since_seal=999999").await.expect(200);
        assert_eq!((&absent["ok"], &absent["first_bad"]["kind"]), (&false.into(), &"seal_missing".into()));
    });
}
