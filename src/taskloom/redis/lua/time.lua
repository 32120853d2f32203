-- What every script starts with. ARGV[1]: the time, "" for the server's own. `now` is microseconds.
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
