-- What the scripts of shard locks share. KEYS[1]: a hash with `owner` and `until` (the end of its
-- time, in microseconds) while it is locked, and `checkpoint`, which stays. ARGV[2]: an owner.
local lock, owner = KEYS[1], ARGV[2]

-- Who holds it now, or nil.
local function holder()
  local held = redis.call('HMGET', lock, 'owner', 'until')
  if held[1] and tonumber(held[2]) > now then
    return held[1]
  end
end

local function hold(micros)
  redis.call('HSET', lock, 'owner', owner, 'until', now + micros)
  return 1
end
