// Calls /soap/tax from Node with nothing but its own library: reads the WSDL, fetches its XSD, signs, calls.
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";

const job = JSON.parse(readFileSync(0, "utf8"));
const wsdl = await (await fetch(job.wsdl)).text();
const location = wsdl.match(/address location="([^"]+)"/)[1];
const xsd = await fetch(wsdl.match(/schemaLocation="([^"]+)"/)[1]);
const rtime = String(Date.now());
const digest = createHash("sha256").update(job.envelope).digest("hex");
const text = job.sid + job.rid + rtime + "\nPOST\n" + new URL(location).pathname + "\n" + digest;
const answer = await fetch(location, {
  method: "POST",
  body: job.envelope,
  headers: {
    "content-type": job.media,
    "gjgxjhpt-rid": job.rid,
    "gjgxjhpt-sid": job.sid,
    "gjgxjhpt-rtime": rtime,
    "gjgxjhpt-sign": createHmac("sha256", job.secret).update(text).digest("base64"),
  },
});
console.log(JSON.stringify({ location, xsd: xsd.status, status: answer.status, body: await answer.text() }));
