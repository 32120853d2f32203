-- Lock what is free or already the owner's.
-- KEYS the locks; ARGV[2], ARGV[3]: owner, milliseconds to live.
-- Returns 1 for each key that is held, else 0.
local held = {}
for place, key in ipairs(KEYS) do
  local owner = redis.call('GET', key)
  held[place] = 0
  if not owner or owner == ARGV[2] then
    redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
    held[place] = 1
  end
end
return held
