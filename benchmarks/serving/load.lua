-- For wrk: sends the bodies of the file $BODIES in turn to $TARGET, and prints one line of JSON at the end.
local requests, turn = {}, 0

local function read_headers(path)
  local headers = {}
  for line in io.lines(path) do
    local name, value = line:match("^([^:]+):%s*(.+)$")
    headers[name] = value
  end
  return headers
end

function init(args)
  local path = os.getenv("BODIES")
  local headers = read_headers((path:gsub("%.bodies$", ".headers")))
  local file = assert(io.open(path, "rb"))
  while true do
    local length = file:read(4)
    if not length then break end
    local a, b, c, d = length:byte(1, 4)
    local body = file:read(a + b * 256 + c * 65536 + d * 16777216)
    requests[#requests + 1] = wrk.format("POST", os.getenv("TARGET"), headers, body)
  end
  file:close()
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  local function ms(percent) return latency:percentile(percent) / 1000 end
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"broken":%d,"refused":%d}\n',
    summary.requests, summary.duration / 1e6, ms(50), ms(99), latency.max / 1000,
    e.connect + e.read + e.write + e.timeout, e.status))
end
