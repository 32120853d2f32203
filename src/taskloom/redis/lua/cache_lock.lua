-- Lock what is free or already the owner's.
-- KEYS the locks; ARGV: owner, milliseconds to live. Returns 1 for each key that is held, else 0.
local held = {}
for place, key in ipairs(KEYS) do
  local now = redis.call('GET', key)
  held[place] = 0
  if not now or now == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    held[place] = 1
  end
end
return held
