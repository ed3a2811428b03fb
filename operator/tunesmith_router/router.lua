-- What HAProxy's configuration cannot say. Written by `python -m tunesmith_router init`.

-- The value of the header whose name came with the split.
core.register_fetches("sticky_value", function(txn)
    local values = txn.http:req_get_headers()[txn:get_var("txn.sticky"):lower()]
    return values and values[0] or ""
end)

-- Per thread, as all of this file's variables are. The frontend's maxconn bounds copies too, but
-- those that wait for it would hold their bodies.
local in_flight = 0

-- Sends a copy of the request to the canary and forgets it. Nothing here waits for anything.
core.register_action("mirror", {"http-req"}, function(txn)
    local headers = txn.http:req_get_headers()
    local body = txn.sf:req_body()
    local length = headers["content-length"]
    if in_flight >= ${max_mirrors_per_thread} or not length or #body ~= tonumber(length[0]) then
        return
    end
    headers["connection"] = nil
    headers["expect"] = nil
    headers["x-tunesmith-mirror"] = {[0] = "1"}
    headers["x-tunesmith-target"] = {[0] = txn:get_var("txn.canary")}
    local copy = {
        url = "http://copies" .. txn.sf:pathq(),
        dst = "unix@${folder}/copies.sock",
        headers = headers,
        body = body,
        -- HAProxy's own timeout comes first, so that the copy's end is known and counted.
        timeout = ${copy_ms},
    }
    in_flight = in_flight + 1
    core.register_task(function()
        pcall(function() core.httpclient():post(copy) end)
        in_flight = in_flight - 1
    end)
end)
