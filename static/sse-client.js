/**
 * The test page: connect, send, run jobs, and see every event.
 *
 * Combines the panels. Each panel is a separate module and owns its part of the document.
 */

import { connectionPanel } from "./connection.js";
import { eventLog } from "./event-log.js";
import { jobPanel } from "./job-panel.js";
import { mergePanel } from "./merge-panel.js";
import { sendForm } from "./send-form.js";

const log = eventLog();
const connection = connectionPanel(log);
sendForm(connection);
jobPanel(connection, log);
mergePanel(connection, log);
